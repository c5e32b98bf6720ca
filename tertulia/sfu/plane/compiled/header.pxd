from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport rd16
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *


cdef int measure(Seen* s, Transport* t, const uint8_t* p, int n) noexcept nogil
cdef void short_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
cdef void long_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
