from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.intake cimport arm, find_ssrc, forget_at
from tertulia.sfu.plane.compiled.statistics cimport wide
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *


cdef void add_transport(Engine* e, Transport* t) noexcept nogil
cdef void remove_transport(Engine* e, Transport* t) noexcept nogil
cdef void add_track(Engine* e, Track* tr) noexcept nogil
cdef void remove_track(Engine* e, Track* tr) noexcept nogil
cdef void name_ssrc(Engine* e, Transport* t, Up* u, uint32_t ssrc, int what, int64_t now) noexcept nogil
cdef void add_up(Engine* e, Up* u, int64_t now) noexcept nogil
cdef void remove_up(Engine* e, Up* u) noexcept nogil
cdef void enable(Track* tr, int enabled) noexcept nogil
cdef void add_down(Down* d) noexcept nogil
cdef void remove_down(Down* d) noexcept nogil
