from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t MILLISECOND
cdef int64_t POINTS
cdef double SMOOTHING
cdef double GAIN
cdef int64_t MOST_DELTAS
cdef double FIRST_THRESHOLD_MS
cdef double THRESHOLD_UP
cdef double THRESHOLD_DOWN
cdef double LEAST_THRESHOLD_MS
cdef double MOST_THRESHOLD_MS
cdef double OUTLIER_MS
cdef double LONGEST_MS
cdef int64_t OVERUSE_NS
cdef int64_t STANDING_NS
cdef int64_t RECENT_NS
cdef int64_t BASE_NS
cdef int64_t NEVER
cdef int64_t GROWING_QUEUE_NS
cdef int64_t FULL_QUEUE_NS
cdef int64_t SOME_QUEUE_NS
cdef int64_t SOME_LOSS

cdef void passed(Transport* t, int64_t send_delta, int64_t arrival_delta) noexcept nogil
cdef void remember(Transport* t, int64_t variation) noexcept nogil
cdef double slope(Transport* t) noexcept nogil
cdef void adapt(Transport* t, double elapsed_ms) noexcept nogil
cdef int64_t queued(Transport* t, int64_t window_ns) noexcept nogil
cdef int usage(Transport* t) noexcept nogil
cdef int is_pressing(Transport* t) noexcept nogil
