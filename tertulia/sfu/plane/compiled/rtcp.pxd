from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport copy, rd16, rd32, rd64
from tertulia.sfu.plane.compiled.delay cimport is_pressing
from tertulia.sfu.plane.compiled.intake cimport arm, hurry, find_ssrc
from tertulia.sfu.plane.compiled.outflow cimport resend, want_layer
from tertulia.sfu.plane.compiled.statistics cimport remb, reported
from tertulia.sfu.plane.compiled.twcc cimport receive
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t SUMMARY_NS

cdef int rtcp_acceptable(Engine* e, Transport* t, const uint8_t* p, int n) noexcept nogil
cdef void rtcp(Engine* e, Transport* t, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef int int_of(int64_t v) noexcept nogil
cdef void part(Engine* e, Transport* t, const uint8_t* p, int o, int end, int64_t now) noexcept nogil
cdef void sender_info(Engine* e, Transport* t, const uint8_t* p, int o, int64_t now) noexcept nogil
cdef void blocks(Engine* e, Transport* t, const uint8_t* p, int o, int end, int count, int64_t now) noexcept nogil
cdef int find_down(Transport* t, uint32_t ssrc) noexcept nogil
cdef void nack(Engine* e, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
cdef void payload_feedback(Engine* e, Transport* t, const uint8_t* p, int o, int end, int form, int64_t now) noexcept nogil
cdef void lost_picture(Engine* e, Down* d) noexcept nogil
cdef void summarise(Engine* e, Transport* t, int pressing, int64_t now) noexcept nogil
cdef void attend(Engine* e, Transport* t, int64_t every_ns) noexcept nogil
