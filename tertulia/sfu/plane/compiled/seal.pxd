# Outgoing SRTP with AES-128-GCM (RFC 7714 8.1, 9.1), by Intel's multi-buffer crypto library where the machine has it, by
# the EVP functions of an OpenSSL else; both are reached by address.
#
# One key schedule per transport; a packet only brings its IV. The packet index of a row's SSRC is guessed as libsrtp does
# (RFC 3711 3.3.1, from 0), so that all give the same bytes; a test holds them together.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef extern from * nogil:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #if defined(__x86_64__) && defined(__has_include)
    #if __has_include(<intel-ipsec-mb.h>)
    #include <intel-ipsec-mb.h>
    #define TP_MB IMB_VERSION_STR
    #define TP_MB_SIZE sizeof(struct gcm_key_data)
    #endif
    #endif
    #define TP_TAG 16
    #define TP_SALT 12

    /* 16 bytes that reach memory in one store: loads of parts of them need not wait for stores before */
    typedef uint64_t tp_block __attribute__((vector_size(16)));

    /* OSSL_PARAM(3) */
    typedef struct { const char *key; unsigned int type; void *data; size_t size; size_t returned; } tp_param;

    /* in the order of srtp.ciphers() */
    typedef struct {
        void *mb; /* the library's manager; NULL: OpenSSL's functions */
        void *cipher;
        void *(*create)(void);
        void (*destroy)(void *);
        int (*begin)(void *, const void *, void *, const uint8_t *, const uint8_t *);
        int (*update)(void *, uint8_t *, int *, const uint8_t *, int);
        int (*finish)(void *, uint8_t *, int *);
        int (*ask)(void *, tp_param *);
    } tp_gcm;

    /* the addresses in the order of the struct */
    static inline void tp_gcm_take(tp_gcm *gcm, int i, uintptr_t address) {
        memcpy((char *) gcm + i * sizeof address, &address, sizeof address);
    }
    #ifdef TP_MB
    static inline void *tp_mb_new(const tp_gcm *gcm, const uint8_t *key) {
        struct gcm_key_data *schedule = tp_take(TP_MB_SIZE);
        if (schedule) IMB_AES128_GCM_PRE((IMB_MGR *) gcm->mb, key, schedule);
        return schedule;
    }
    static inline int tp_mb_seal(const tp_gcm *gcm, const void *schedule, const uint8_t *iv, uint8_t *b, int head, int own,
                                 const uint8_t *rest, int more) {
        IMB_MGR *mb = gcm->mb;
        struct gcm_context_data state __attribute__((aligned(64))); /* across two lines it costs 10 ns */
        uint8_t *tag = b + own + more;
        if (own == head) {
            IMB_AES128_GCM_ENC(mb, schedule, &state, b + head, rest, more, iv, b, head, tag, TP_TAG);
            return 1;
        }
        IMB_AES128_GCM_INIT(mb, schedule, &state, iv, b, head);
        IMB_AES128_GCM_ENC_UPDATE(mb, schedule, &state, b + head, b + head, own - head);
        if (more > 0) IMB_AES128_GCM_ENC_UPDATE(mb, schedule, &state, b + own, rest, more);
        IMB_AES128_GCM_ENC_FINALIZE(mb, schedule, &state, tag, TP_TAG);
        return 1;
    }
    #else
    #define TP_MB ""
    #define tp_mb_new(gcm, key) 0
    #define tp_mb_seal(gcm, schedule, iv, b, head, own, rest, more) 0
    #endif
    static inline int tp_evp_seal(const tp_gcm *gcm, void *context, const uint8_t *iv, uint8_t *b, int head, int own,
                                  const uint8_t *rest, int more) {
        int n;
        tp_param ask[2];
        memset(ask, 0, sizeof ask);
        ask[0].key = "tag";
        ask[0].type = 5; /* OSSL_PARAM_OCTET_STRING */
        ask[0].data = b + own + more;
        ask[0].size = TP_TAG;
        return gcm->begin(context, 0, 0, 0, iv) == 1 && gcm->update(context, 0, &n, b, head) == 1
            && (own == head || gcm->update(context, b + head, &n, b + head, own - head) == 1)
            && (more <= 0 || gcm->update(context, b + own, &n, rest, more) == 1)
            && gcm->finish(context, b + own + more, &n) == 1 && gcm->ask(context, ask) == 1;
    }
    /* a key schedule, NULL when it is refused */
    static inline void *tp_seal_new(const tp_gcm *gcm, const uint8_t *key) {
        void *context;
        if (gcm->mb) return tp_mb_new(gcm, key);
        context = gcm->create();
        if (context && gcm->begin(context, gcm->cipher, 0, key, 0) != 1) { gcm->destroy(context); context = 0; }
        return context;
    }
    static inline void tp_seal_free(const tp_gcm *gcm, void *context) {
        #ifdef TP_MB_SIZE
        if (context && gcm->mb) {
            explicit_bzero(context, TP_MB_SIZE);
            tp_give(context, TP_MB_SIZE);
            return;
        }
        #endif
        if (context) gcm->destroy(context);
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
    static inline int tp_seal(const tp_gcm *gcm, void *context, const uint8_t *salt, int64_t *top, int window,
                              uint8_t *b, int head, int own, const uint8_t *rest, int more) {
        uint64_t salted[2];
        tp_block block;
        const uint8_t *iv = (const uint8_t *) &block;
        int64_t index = tp_index(*top, (uint16_t) (b[2] << 8 | b[3]));
        uint32_t roc = (uint32_t) (index >> 16);
        uint64_t ssrc = (uint32_t) b[8] << 24 | b[9] << 16 | b[10] << 8 | b[11];
        if (index - *top <= -window) return 0;
        /* two zero bytes, SSRC, rollover counter, sequence number; exclusive or salt */
        memcpy(salted, salt, sizeof salted);
        block = (tp_block) { htobe64(ssrc << 16 | roc >> 16) ^ salted[0], htobe64((uint64_t) index << 32) ^ salted[1] };
        if (!(gcm->mb ? tp_mb_seal(gcm, context, iv, b, head, own, rest, more)
                      : tp_evp_seal(gcm, context, iv, b, head, own, rest, more))) return 0;
        if (index > *top) *top = index;
        return own + more + TP_TAG;
    }
    """
    int TP_SALT
    const char* TP_MB
    ctypedef struct tp_gcm:
        pass
    void tp_gcm_take(tp_gcm* gcm, int i, uintptr_t address)
    void* tp_seal_new(const tp_gcm* gcm, const uint8_t* key)
    void tp_seal_free(const tp_gcm* gcm, void* context)
    int tp_seal(const tp_gcm* gcm, void* context, const uint8_t* salt, int64_t* top, int window,
                uint8_t* b, int head, int own, const uint8_t* rest, int more)
