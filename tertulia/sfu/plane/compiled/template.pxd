from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport copy, ticked, u32, wr16, wr24, wr32
from tertulia.sfu.plane.compiled.ahead cimport departure_at
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *


cdef int store(Up* u, Seen* s, const uint8_t* p, int64_t number, uint32_t timestamp, int64_t now) noexcept nogil
cdef int kept(Up* u, int64_t number) noexcept nogil
cdef int head(uint8_t* b, int o, int64_t number, int size, int long) noexcept nogil
cdef int needs_long_form(Transport* t, Up* u, int at, int end) noexcept nogil
cdef int extend(Engine* e, Down* d, Up* u, int at, int end) noexcept nogil
cdef void renumber(uint8_t* b, int o, Up* u, int slot, int picture, int tl0, int keyidx) noexcept nogil
cdef int build(Engine* e, Down* d, Up* u, int slot, int sequence, uint32_t timestamp, int picture, int tl0, int keyidx, int repair) noexcept nogil
cdef int fill(Engine* e, Down* d, Up* u) noexcept nogil
cdef void depart(Engine* e, Transport* t, int size) noexcept nogil
