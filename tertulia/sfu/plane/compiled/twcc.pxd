from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.ahead cimport departure_at
from tertulia.sfu.plane.compiled.bits cimport rd16, rd24, s16, s32, unticked, wr16, wr24, wr32
from tertulia.sfu.plane.compiled.delay cimport passed
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t TICK_NS
cdef int64_t REFERENCE_NS
cdef int64_t FEWEST_NS
cdef int64_t MANY
cdef int64_t STATUSES
cdef int64_t BURST_NS

cdef void arrived(Transport* t, int sequence, int64_t now) noexcept nogil
cdef int statuses(Transport* t, uint8_t* kinds, int64_t reference) noexcept nogil
cdef int64_t steps(int64_t elapsed) noexcept nogil
cdef int feedback(Engine* e, Transport* t) noexcept nogil
cdef int chunks(uint8_t* b, int o, const uint8_t* kinds, int count) noexcept nogil
cdef int after_chunks(const uint8_t* p, int o, int end, int count) noexcept nogil
cdef int receive(Transport* t, const uint8_t* p, int o, int end, int64_t now) noexcept nogil
cdef void lose(Transport* t, int64_t number) noexcept nogil
cdef int is_kept(Transport* t, int64_t number) noexcept nogil
cdef void acknowledge(Transport* t, int64_t number, int64_t arrival, int64_t now) noexcept nogil
cdef void close_group(Transport* t) noexcept nogil
