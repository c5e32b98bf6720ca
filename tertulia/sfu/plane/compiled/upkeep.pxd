from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport wr64
from tertulia.sfu.plane.compiled.delay cimport RECENT_NS, STANDING_NS, queued, usage
from tertulia.sfu.plane.compiled.intake cimport arm
from tertulia.sfu.plane.compiled.outflow cimport ask_key_frame
from tertulia.sfu.plane.compiled.repair cimport ask, next_due
from tertulia.sfu.plane.compiled.statistics cimport receiver_report, report_block, sender_report
from tertulia.sfu.plane.compiled.twcc cimport feedback
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t RECEIVER_REPORT_NS
cdef int64_t SENDER_REPORT_NS
cdef int64_t TOGETHER_NS
cdef int64_t SUMMARY_NS
cdef int64_t BLOCKS
cdef int64_t IDLE_NS

cdef void tick(Engine* e, int64_t now) noexcept nogil
cdef void tend_transport(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void send_feedback(Engine* e, Transport* t) noexcept nogil
cdef void report_reception(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void summary(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void tend_up(Engine* e, Up* u, int64_t now) noexcept nogil
cdef void report_senders(Engine* e, Track* tr, int64_t now) noexcept nogil
