# Outgoing SRTP with AES-128-GCM (RFC 7714 8.1, 9.1), by the EVP functions of an OpenSSL reached by address.
#
# One cipher context per transport: its key schedule is set once, a packet only sets the IV. The packet index of a row's
# SSRC is guessed as libsrtp does (RFC 3711 3.3.1, from 0), so that both give the same bytes; a test holds them together.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef extern from * nogil:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    #define TP_TAG 16
    #define TP_SALT 12

    /* 16 bytes that reach memory in one store: loads of parts of them need not wait for stores before */
    typedef uint64_t tp_block __attribute__((vector_size(16)));

    /* OSSL_PARAM(3) */
    typedef struct { const char *key; unsigned int type; void *data; size_t size; size_t returned; } tp_param;

    typedef struct {
        void *cipher;
        void *(*create)(void);
        void (*destroy)(void *);
        int (*begin)(void *, const void *, void *, const uint8_t *, const uint8_t *);
        int (*update)(void *, uint8_t *, int *, const uint8_t *, int);
        int (*finish)(void *, uint8_t *, int *);
        int (*ask)(void *, tp_param *);
    } tp_evp;

    /* the addresses in the order of the struct */
    static inline void tp_evp_take(tp_evp *evp, int i, uintptr_t address) {
        memcpy((char *) evp + i * sizeof address, &address, sizeof address);
    }
    /* a context with its key, NULL when OpenSSL refuses */
    static inline void *tp_seal_new(const tp_evp *evp, const uint8_t *key) {
        void *context = evp->create();
        if (context && evp->begin(context, evp->cipher, 0, key, 0) != 1) { evp->destroy(context); context = 0; }
        return context;
    }
    static inline void tp_seal_free(const tp_evp *evp, void *context) {
        if (context) evp->destroy(context);
    }
    /* the index a sequence number means, given the highest one so far */
    static inline int64_t tp_index(int64_t top, uint16_t sequence) {
        int32_t delta;
        if (top <= 32768) return sequence;
        delta = (int32_t) sequence - (int32_t) (top & 0xFFFF);
        if ((top & 0xFFFF) < 32768) { if (delta > 32768) delta -= 65536; }
        else if (delta < -32768) delta += 65536;
        return top + delta;
    }
    /* Protect the packet whose header is b[:head]; plain text are b[head:own] and rest[:more]. The whole length, 0 when
       it cannot be: more than `window` behind the highest index, or OpenSSL refused. */
    static inline int tp_seal(const tp_evp *evp, void *context, const uint8_t *salt, int64_t *top, int window,
                              uint8_t *b, int head, int own, const uint8_t *rest, int more) {
        uint64_t salted[2];
        tp_block iv;
        int64_t index = tp_index(*top, (uint16_t) (b[2] << 8 | b[3]));
        uint32_t roc = (uint32_t) (index >> 16);
        uint64_t ssrc = (uint32_t) b[8] << 24 | b[9] << 16 | b[10] << 8 | b[11];
        int n, end = own + more;
        tp_param ask[2];
        if (index - *top <= -window) return 0;
        /* two zero bytes, SSRC, rollover counter, sequence number; exclusive or salt */
        memcpy(salted, salt, sizeof salted);
        iv = (tp_block) { htobe64(ssrc << 16 | roc >> 16) ^ salted[0], htobe64((uint64_t) index << 32) ^ salted[1] };
        memset(ask, 0, sizeof ask);
        ask[0].key = "tag";
        ask[0].type = 5; /* OSSL_PARAM_OCTET_STRING */
        ask[0].data = b + end;
        ask[0].size = TP_TAG;
        if (evp->begin(context, 0, 0, 0, (const uint8_t *) &iv) != 1 || evp->update(context, 0, &n, b, head) != 1
            || (own > head && evp->update(context, b + head, &n, b + head, own - head) != 1)
            || (more > 0 && evp->update(context, b + own, &n, rest, more) != 1)
            || evp->finish(context, b + end, &n) != 1 || evp->ask(context, ask) != 1) return 0;
        if (index > *top) *top = index;
        return end + TP_TAG;
    }
    """
    int TP_SALT
    ctypedef struct tp_evp:
        pass
    void tp_evp_take(tp_evp* evp, int i, uintptr_t address)
    void* tp_seal_new(const tp_evp* evp, const uint8_t* key)
    void tp_seal_free(const tp_evp* evp, void* context)
    int tp_seal(const tp_evp* evp, void* context, const uint8_t* salt, int64_t* top, int window,
                uint8_t* b, int head, int own, const uint8_t* rest, int more)
