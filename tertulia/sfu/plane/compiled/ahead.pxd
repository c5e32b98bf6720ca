# Entries of a row's and a transport's tables, and fetching them ahead: a row that is served after others is in no cache.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Past, Rest, Transport
from tertulia.sfu.plane.compiled.words cimport C_VP8, SENT

cdef enum:
    LINE = 64


cdef extern from * nogil:
    """
    /* a function of nothing but prefetches is pure in gcc's eyes, and a call of it is dropped; the empty asm is an effect */
    #define tp_near(p) do { __builtin_prefetch((p), 1, 3); __asm__ volatile (""); } while (0)
    """
    void tp_near(const void* p)


cdef inline Past* past_at(Down* d, int sequence) noexcept nogil:
    return &d.h[sequence & d.h_mask]


cdef inline Rest* rest_at(Down* d, int sequence) noexcept nogil:
    return &d.h_rest[sequence & d.h_mask]


cdef inline Departure* departure_at(Transport* t, int64_t number) noexcept nogil:
    return &t.x[number & (SENT - 1)]


cdef inline void soon(Down* d) noexcept nogil:
    # what every packet needs of a row stands first in it
    cdef int k
    for k in range(3):
        tp_near(<uint8_t*> d + k * LINE)


cdef inline void near(Down* d, int count) noexcept nogil:
    cdef Transport* t = d.transport
    cdef int k
    if d.tap or t == NULL:
        return
    tp_near(t)
    tp_near(<uint8_t*> t + LINE)
    tp_near(<uint8_t*> t + sizeof(Transport))
    tp_near(<uint8_t*> t + sizeof(Transport) + LINE)
    # a line holds four entries of a history, eight of its rest, eight departures
    if count > 16:
        count = 16
    if d.h_mask:
        for k in range(1, count + 4, 4):
            tp_near(past_at(d, d.last_seq + k))
        if d.track.codec == C_VP8:
            for k in range(1, count + 8, 8):
                tp_near(rest_at(d, d.last_seq + k))
    for k in range(0, count + 7, 8):
        tp_near(departure_at(t, t.x_next + k))
