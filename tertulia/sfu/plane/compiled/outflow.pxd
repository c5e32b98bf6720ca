from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport ticked, unticked
from tertulia.sfu.plane.compiled.intake cimport arm, hurry
from tertulia.sfu.plane.compiled.munge cimport select, sent
from tertulia.sfu.plane.compiled.statistics cimport picture_loss
from tertulia.sfu.plane.compiled.template cimport build, fill, kept
from tertulia.sfu.plane.compiled.ahead cimport near, past_at, rest_at, soon
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t KEY_FRAME_NS
cdef int64_t SETTLE_NS
cdef int64_t NEAR
cdef int64_t SOON
cdef int64_t RESEND_RATE
cdef int64_t RESEND_BURST_NS

cdef void forward(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef void leave(Engine* e, Down* d, int n, int as_rtx) noexcept nogil
cdef int fan_out(Engine* e) noexcept nogil
cdef void ask_key_frame(Engine* e, Track* tr, Up* u) noexcept nogil
cdef void want_layer(Engine* e, Track* tr, int layer) noexcept nogil
cdef void aim(Engine* e, Down* d, int layer, int temporal) noexcept nogil
cdef int affordable_resend(Transport* t, int64_t now) noexcept nogil
cdef void resend(Engine* e, Down* d, int sequence) noexcept nogil
