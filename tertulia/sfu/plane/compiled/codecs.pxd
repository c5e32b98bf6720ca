from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport rd16
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *


cdef void look(Seen* s, int codec, const uint8_t* p, int o, int end) noexcept nogil
cdef void look_vp8(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void look_vp9(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void nal_h264(Seen* s, int kind) noexcept nogil
cdef void look_h264(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void nal_h265(Seen* s, int kind) noexcept nogil
cdef void look_h265(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
