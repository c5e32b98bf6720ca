from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport rd16, rd24, rd32, s32, u32, wr16, wr24, wr32, wr64
from tertulia.sfu.plane.compiled.munge cimport ticks
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t SECOND_NS

cdef void clocked(Up* u, uint32_t timestamp, int64_t now) noexcept nogil
cdef int64_t lost(Up* u) noexcept nogil
cdef int report_block(Up* u, uint8_t* b, int o, int64_t now) noexcept nogil
cdef int int_of(int64_t v) noexcept nogil
cdef int receiver_report(uint8_t* b, uint32_t sender, int blocks) noexcept nogil
cdef int sender_report(Down* d, Up* u, uint8_t* b, int64_t now) noexcept nogil
cdef int picture_loss(uint8_t* b, uint32_t sender, uint32_t media) noexcept nogil
cdef void reported(Down* d, const uint8_t* p, int o, int64_t now) noexcept nogil
cdef int64_t remb(const uint8_t* p, int o, int end) noexcept nogil
cdef int64_t wide(int64_t v) noexcept nogil
