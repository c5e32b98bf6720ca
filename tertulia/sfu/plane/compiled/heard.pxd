# What a peer sent, under AES-128-GCM: opened in place, each packet once (RFC 3711 3.3.2), with the windows libsrtp keeps.
from libc.stdint cimport uint8_t, uint32_t

from tertulia.sfu.plane.compiled.seal cimport tp_gcm, tp_keys

cdef extern from * nogil:
    """
    #define TP_WINDOW 1024 /* srtp.WINDOW_PACKETS, a test compares them */
    #define TP_RTCP_WINDOW 128
    #define TP_FALSE 1
    #define TP_AGAIN 2

    /* the highest index, -1 for none, and bit i % size of each index i in the window that ends with it */
    typedef struct { int64_t top; uint64_t seen[TP_WINDOW / 64]; } tp_rtp_window;
    typedef struct { int64_t top; uint64_t seen[TP_RTCP_WINDOW / 64]; } tp_rtcp_window;

    /* of every SSRC an authentic packet came from; whoever calls limits them */
    typedef struct { uint32_t *ssrcs; tp_rtp_window *rtp; tp_rtcp_window *rtcp; int n, room, last; } tp_heard;

    static inline int tp_is_new(int64_t top, const uint64_t *seen, int size, int64_t index) {
        if (index > top) return 1;
        return top - index < size && !(seen[index % size / 64] >> (index % 64) & 1);
    }
    static inline void tp_note(int64_t *top, uint64_t *seen, int size, int64_t index) {
        int64_t i;
        if (index - *top >= size) memset(seen, 0, size / 8);
        else for (i = *top + 1; i < index; i++) seen[i % size / 64] &= ~((uint64_t) 1 << (i % 64));
        if (index > *top) *top = index;
        seen[index % size / 64] |= (uint64_t) 1 << (index % 64);
    }
    /* -1: not heard yet */
    static inline int tp_find(tp_heard *heard, uint32_t ssrc) {
        int i;
        if (heard->last < heard->n && heard->ssrcs[heard->last] == ssrc) return heard->last;
        for (i = 0; i < heard->n; i++)
            if (heard->ssrcs[i] == ssrc) return heard->last = i;
        return -1;
    }
    /* -1: no memory */
    static inline int tp_hear(tp_heard *heard, uint32_t ssrc) {
        int i = heard->n, room = heard->room + 4;
        if (i == heard->room) {
            /* a part that has grown already stays so: it is only longer than told */
            uint32_t *ssrcs = realloc(heard->ssrcs, room * sizeof *ssrcs);
            tp_rtp_window *rtp = realloc(heard->rtp, room * sizeof *rtp);
            tp_rtcp_window *rtcp = realloc(heard->rtcp, room * sizeof *rtcp);
            if (ssrcs) heard->ssrcs = ssrcs;
            if (rtp) heard->rtp = rtp;
            if (rtcp) heard->rtcp = rtcp;
            if (!ssrcs || !rtp || !rtcp) return -1;
            heard->room = room;
        }
        heard->ssrcs[i] = ssrc;
        memset(&heard->rtp[i], 0, sizeof heard->rtp[i]);
        memset(&heard->rtcp[i], 0, sizeof heard->rtcp[i]);
        heard->rtp[i].top = heard->rtcp[i].top = -1;
        heard->n++;
        return i;
    }
    static inline void tp_forget(tp_heard *heard, uint32_t ssrc) {
        int i = tp_find(heard, ssrc), last = heard->n - 1;
        if (i < 0) return;
        heard->ssrcs[i] = heard->ssrcs[last];
        heard->rtp[i] = heard->rtp[last];
        heard->rtcp[i] = heard->rtcp[last];
        heard->n = last;
    }
    static inline void tp_heard_free(tp_heard *heard) {
        free(heard->ssrcs);
        free(heard->rtp);
        free(heard->rtcp);
        memset(heard, 0, sizeof *heard);
    }

    /* An RTP packet b[:*n], *n >= 12 (RFC 7714 8): 0 with what it was before, TP_FALSE or TP_AGAIN. */
    static inline int tp_open(const tp_gcm *gcm, const tp_keys *keys, tp_heard *heard, uint8_t *b, int *n) {
        uint32_t ssrc = tp_read32(b + 8);
        int i = tp_find(heard, ssrc), head = 12 + 4 * (b[0] & 15);
        int64_t top = i < 0 ? -1 : heard->rtp[i].top, index = tp_index(top, (uint16_t) (b[2] << 8 | b[3]));
        if (b[0] & 0x10) {
            if (head + 4 > *n) return TP_FALSE;
            head += 4 + 4 * (b[head + 2] << 8 | b[head + 3]);
        }
        if (head > *n) return TP_FALSE;
        if (i >= 0 && !tp_is_new(top, heard->rtp[i].seen, TP_WINDOW, index)) return TP_AGAIN;
        if (head + TP_TAG > *n) return TP_FALSE;
        if (!tp_open_with(gcm, keys->rtp, tp_iv(keys->rtp_salt, ssrc, index), b, head, b + head, *n - head - TP_TAG))
            return TP_FALSE;
        if (i < 0 && (i = tp_hear(heard, ssrc)) < 0) return TP_FALSE;
        tp_note(&heard->rtp[i].top, heard->rtp[i].seen, TP_WINDOW, index);
        *n -= TP_TAG;
        return 0;
    }
    /* An RTCP compound likewise (RFC 7714 9); one that is only authenticated was never agreed upon. */
    static inline int tp_open_rtcp(const tp_gcm *gcm, const tp_keys *keys, tp_heard *heard, uint8_t *b, int *n) {
        uint8_t known[TP_RTCP_HEAD + TP_RTCP_WORD];
        int i, size = *n - TP_RTCP_HEAD - TP_TAG - TP_RTCP_WORD;
        uint32_t ssrc, word, index;
        if (size < 0) return TP_FALSE;
        ssrc = tp_read32(b + 4);
        word = tp_read32(b + *n - TP_RTCP_WORD);
        index = word & ~TP_ENCRYPTED;
        i = tp_find(heard, ssrc);
        if (i >= 0 && !tp_is_new(heard->rtcp[i].top, heard->rtcp[i].seen, TP_RTCP_WINDOW, index)) return TP_AGAIN;
        if (!(word & TP_ENCRYPTED)) return TP_FALSE;
        memcpy(known, b, TP_RTCP_HEAD);
        memcpy(known + TP_RTCP_HEAD, b + *n - TP_RTCP_WORD, TP_RTCP_WORD);
        if (!tp_open_with(gcm, keys->rtcp, tp_iv(keys->rtcp_salt, ssrc, index), known, sizeof known, b + TP_RTCP_HEAD, size))
            return TP_FALSE;
        if (i < 0 && (i = tp_hear(heard, ssrc)) < 0) return TP_FALSE;
        tp_note(&heard->rtcp[i].top, heard->rtcp[i].seen, TP_RTCP_WINDOW, index);
        *n = TP_RTCP_HEAD + size;
        return 0;
    }
    """
    int TP_WINDOW, TP_AGAIN
    ctypedef struct tp_heard:
        pass
    void tp_forget(tp_heard* heard, uint32_t ssrc)
    void tp_heard_free(tp_heard* heard)
    int tp_open(const tp_gcm* gcm, const tp_keys* keys, tp_heard* heard, uint8_t* b, int* n)
    int tp_open_rtcp(const tp_gcm* gcm, const tp_keys* keys, tp_heard* heard, uint8_t* b, int* n)
