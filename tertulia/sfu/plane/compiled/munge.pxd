from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport s16, s32, s64, u32
from tertulia.sfu.plane.compiled.ahead cimport past_at, rest_at
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t BRIDGE_TOLERANCE_NS
cdef int64_t REPORTS_APART

cdef int64_t ticks(int64_t elapsed_ns, int64_t clock_hz) noexcept nogil
cdef void open_range(Down* d, uint32_t start, int64_t sequence, int64_t picture, int64_t tl0, int64_t keyidx) noexcept nogil
cdef void set_range(Down* d, uint32_t start, int64_t sequence, int64_t picture, int64_t tl0, int64_t keyidx) noexcept nogil
cdef int earlier_range(Down* d, uint32_t number) noexcept nogil
cdef uint32_t bridged(Engine* e, Down* d, Up* u, uint32_t timestamp, int64_t arrival) noexcept nogil
cdef void begin(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef int temporal_drop(Down* d, Up* u, int slot) noexcept nogil
cdef int select(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef void take_off(Down* d, Up* u, int slot, uint32_t sequence, uint32_t picture, uint32_t tl0, uint32_t keyidx) noexcept nogil
cdef int newest(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef int select_raw(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef void sent(Down* d, Up* u, int slot) noexcept nogil
