from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport wr16, wr32
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t SHORTEST_NS
cdef int64_t LONGEST_NS
cdef int64_t ASSUMED_RTT_NS

cdef int64_t pause_ns(Up* u, int tries) noexcept nogil
cdef void miss(Up* u, int64_t first, int64_t end, int64_t now) noexcept nogil
cdef int int_of(int64_t v) noexcept nogil
cdef void forget_first(Up* u, int count) noexcept nogil
cdef void move(Up* u, int to, int k) noexcept nogil
cdef int found(Up* u, int64_t number, int64_t now) noexcept nogil
cdef int64_t next_due(Up* u) noexcept nogil
cdef int ask(Up* u, uint8_t* b, uint32_t sender, int64_t now) noexcept nogil
