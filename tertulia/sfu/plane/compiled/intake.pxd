from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.bits cimport copy, rd16, rd32, s16
from tertulia.sfu.plane.compiled.codecs cimport look
from tertulia.sfu.plane.compiled.header cimport measure
from tertulia.sfu.plane.compiled.repair cimport found, miss
from tertulia.sfu.plane.compiled.statistics cimport clocked, wide
from tertulia.sfu.plane.compiled.template cimport kept, store
from tertulia.sfu.plane.compiled.twcc cimport arrived
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

cdef int64_t SECOND_NS
cdef int64_t RATE_BASE
cdef int64_t RATE_EACH
cdef int64_t UNBOUND_EXPIRES_NS
cdef int64_t LIMBO_EXPIRES_NS
cdef int64_t MAX_DROPOUT
cdef int64_t MAX_MISORDER

cdef void arm(Engine* e, int64_t due) noexcept nogil
cdef void hurry(Engine* e, Track* tr, int64_t due) noexcept nogil
cdef int affordable(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef int find_ssrc(Transport* t, uint32_t ssrc) noexcept nogil
cdef int acceptable(Engine* e, Transport* t, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef void expire_unbound(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void forget_at(Engine* e, Transport* t, int i) noexcept nogil
cdef void rtp(Engine* e, Transport* t, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef void named(Engine* e, Transport* t, int i, const uint8_t* p, int n, int64_t now, int late) noexcept nogil
cdef void unbound(Engine* e, Transport* t, Seen* s, int i, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef void tidy_limbo(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef int word(Engine* e, Seen* s, const uint8_t* p, int kind, int o) noexcept nogil
cdef int replay(Engine* e, Transport* t, uint32_t ssrc) noexcept nogil
cdef void accept(Engine* e, Up* u, const uint8_t* p, int sequence, int64_t now, int late) noexcept nogil
cdef int64_t placed(Engine* e, Up* u, int sequence, int64_t now) noexcept nogil
cdef void advance(Up* u, int64_t number, int64_t now) noexcept nogil
cdef void judge(Engine* e, Up* u, const uint8_t* p, uint32_t timestamp, int fresh) noexcept nogil
cdef void loudness(Engine* e, Up* u, const uint8_t* p) noexcept nogil
cdef void pend(Engine* e, Up* u, int slot) noexcept nogil
