# SRTP and SRTCP with AES-128-GCM (RFC 7714), by Intel's multi-buffer crypto library where the machine has it, by the EVP
# functions of an OpenSSL else; both are reached by address. What a peer sent and its replay windows: heard.pxd.
#
# One key schedule per use of a transport; a packet only brings its IV. The packet index of an SSRC is guessed as libsrtp
# does (RFC 3711 3.3.1, from 0), so that all give the same bytes; a test holds them together.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t

from tertulia.sfu.plane.compiled.memory cimport tp_give, tp_take

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
    #define TP_RTCP_HEAD 8
    #define TP_RTCP_WORD 4
    #define TP_ENCRYPTED 0x80000000u

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
        int (*begin)(void *, const void *, void *, const uint8_t *, const uint8_t *, int);
        int (*update)(void *, uint8_t *, int *, const uint8_t *, int);
        int (*finish)(void *, uint8_t *, int *);
        int (*ask)(void *, tp_param *);
        int (*tell)(void *, const tp_param *);
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
    static inline int tp_mb_seal(const tp_gcm *gcm, const void *schedule, const uint8_t *iv, const uint8_t *aad, int known,
                                 uint8_t *b, int head, int own, const uint8_t *rest, int more) {
        IMB_MGR *mb = gcm->mb;
        struct gcm_context_data state __attribute__((aligned(64))); /* across two lines it costs 10 ns */
        uint8_t *tag = b + own + more;
        if (own == head) {
            IMB_AES128_GCM_ENC(mb, schedule, &state, b + head, rest, more, iv, aad, known, tag, TP_TAG);
            return 1;
        }
        IMB_AES128_GCM_INIT(mb, schedule, &state, iv, aad, known);
        IMB_AES128_GCM_ENC_UPDATE(mb, schedule, &state, b + head, b + head, own - head);
        if (more > 0) IMB_AES128_GCM_ENC_UPDATE(mb, schedule, &state, b + own, rest, more);
        IMB_AES128_GCM_ENC_FINALIZE(mb, schedule, &state, tag, TP_TAG);
        return 1;
    }
    static inline int tp_mb_open(const tp_gcm *gcm, const void *schedule, const uint8_t *iv, const uint8_t *aad, int known,
                                 uint8_t *text, int n) {
        struct gcm_context_data state __attribute__((aligned(64)));
        uint64_t tag[2], said[2];
        memcpy(said, text + n, TP_TAG);
        IMB_AES128_GCM_DEC((IMB_MGR *) gcm->mb, schedule, &state, text, text, n, iv, aad, known, (uint8_t *) tag, TP_TAG);
        return ((tag[0] ^ said[0]) | (tag[1] ^ said[1])) == 0; /* in the same time, wherever they differ */
    }
    #else
    #define TP_MB ""
    #define tp_mb_new(gcm, key) 0
    #define tp_mb_seal(gcm, schedule, iv, aad, known, b, head, own, rest, more) 0
    #define tp_mb_open(gcm, schedule, iv, aad, known, text, n) 0
    #endif
    static inline void tp_evp_tag(tp_param *tag, uint8_t *data) {
        memset(tag, 0, 2 * sizeof *tag);
        tag->key = "tag";
        tag->type = 5; /* OSSL_PARAM_OCTET_STRING */
        tag->data = data;
        tag->size = TP_TAG;
    }
    static inline int tp_evp_seal(const tp_gcm *gcm, void *context, const uint8_t *iv, const uint8_t *aad, int known,
                                  uint8_t *b, int head, int own, const uint8_t *rest, int more) {
        int n;
        tp_param tag[2];
        tp_evp_tag(tag, b + own + more);
        return gcm->begin(context, 0, 0, 0, iv, 1) == 1 && gcm->update(context, 0, &n, aad, known) == 1
            && (own == head || gcm->update(context, b + head, &n, b + head, own - head) == 1)
            && (more <= 0 || gcm->update(context, b + own, &n, rest, more) == 1)
            && gcm->finish(context, b + own + more, &n) == 1 && gcm->ask(context, tag) == 1;
    }
    static inline int tp_evp_open(const tp_gcm *gcm, void *context, const uint8_t *iv, const uint8_t *aad, int known,
                                  uint8_t *text, int n) {
        int got;
        uint8_t nothing[TP_TAG];
        tp_param tag[2];
        tp_evp_tag(tag, text + n);
        return gcm->begin(context, 0, 0, 0, iv, 0) == 1 && gcm->tell(context, tag) == 1
            && gcm->update(context, 0, &got, aad, known) == 1
            && (n == 0 || gcm->update(context, text, &got, text, n) == 1) && gcm->finish(context, nothing, &got) == 1;
    }
    /* a key schedule, NULL when it is refused */
    static inline void *tp_schedule(const tp_gcm *gcm, const uint8_t *key) {
        void *context;
        if (gcm->mb) return tp_mb_new(gcm, key);
        context = gcm->create();
        if (context && gcm->begin(context, gcm->cipher, 0, key, 0, 1) != 1) { gcm->destroy(context); context = 0; }
        return context;
    }
    static inline void tp_unschedule(const tp_gcm *gcm, void *context) {
        #ifdef TP_MB_SIZE
        if (context && gcm->mb) {
            explicit_bzero(context, TP_MB_SIZE);
            tp_give(context, TP_MB_SIZE);
            return;
        }
        #endif
        if (context) gcm->destroy(context);
    }

    /* the session keys of one direction; `rtp` NULL: they are libsrtp's business */
    typedef struct {
        void *rtp, *rtcp;
        uint8_t rtp_salt[16], rtcp_salt[16]; /* TP_SALT bytes of each */
        struct { uint32_t ssrc, index; } *told; /* the last SRTCP index of every SSRC that sent one */
        int n_told, room;
    } tp_keys;

    /* 1, or 0 when the supplier refused */
    static inline int tp_keys_take(tp_keys *keys, const tp_gcm *gcm, const uint8_t *rtp, const uint8_t *rtp_salt,
                                   const uint8_t *rtcp, const uint8_t *rtcp_salt) {
        memset(keys, 0, sizeof *keys);
        memcpy(keys->rtp_salt, rtp_salt, TP_SALT);
        memcpy(keys->rtcp_salt, rtcp_salt, TP_SALT);
        keys->rtp = tp_schedule(gcm, rtp);
        keys->rtcp = tp_schedule(gcm, rtcp);
        return keys->rtp && keys->rtcp;
    }
    static inline void tp_keys_free(tp_keys *keys, const tp_gcm *gcm) {
        tp_unschedule(gcm, keys->rtp);
        tp_unschedule(gcm, keys->rtcp);
        free(keys->told);
        explicit_bzero(keys, sizeof *keys);
    }

    /* where the SRTCP index of an SSRC is kept; NULL without memory */
    static inline uint32_t *tp_told(tp_keys *keys, uint32_t ssrc) {
        int i, n = keys->n_told;
        for (i = 0; i < n; i++)
            if (keys->told[i].ssrc == ssrc) return &keys->told[i].index;
        if (n == keys->room) {
            void *more = realloc(keys->told, (n + 4) * sizeof *keys->told);
            if (!more) return 0;
            keys->told = more;
            keys->room = n + 4;
        }
        keys->told[n].ssrc = ssrc;
        keys->told[n].index = 0;
        keys->n_told++;
        return &keys->told[n].index;
    }
    static inline void tp_untell(tp_keys *keys, uint32_t ssrc) {
        int i;
        for (i = 0; i < keys->n_told; i++)
            if (keys->told[i].ssrc == ssrc) {
                keys->told[i] = keys->told[--keys->n_told];
                return;
            }
    }
    static inline uint32_t tp_read32(const uint8_t *b) {
        uint32_t v;
        memcpy(&v, b, sizeof v);
        return be32toh(v);
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
    /* two zero bytes, SSRC, 48 bits of index (8.1: rollover counter and sequence number; 9.1: the SRTCP index), xor salt */
    static inline tp_block tp_iv(const uint8_t *salt, uint32_t ssrc, int64_t index) {
        uint64_t salted[2];
        memcpy(salted, salt, sizeof salted);
        return (tp_block) { htobe64((uint64_t) ssrc << 16 | (uint64_t) index >> 32) ^ salted[0],
                            htobe64((uint64_t) index << 32) ^ salted[1] };
    }
    static inline int tp_seal_with(const tp_gcm *gcm, void *schedule, tp_block iv, const uint8_t *aad, int known, uint8_t *b,
                                   int head, int own, const uint8_t *rest, int more) {
        const uint8_t *nonce = (const uint8_t *) &iv;
        return gcm->mb ? tp_mb_seal(gcm, schedule, nonce, aad, known, b, head, own, rest, more)
                       : tp_evp_seal(gcm, schedule, nonce, aad, known, b, head, own, rest, more);
    }
    /* text[:n] with its tag behind it, decrypted in place: 1 when it is authentic, else it is rubbish now */
    static inline int tp_open_with(const tp_gcm *gcm, void *schedule, tp_block iv, const uint8_t *aad, int known,
                                   uint8_t *text, int n) {
        const uint8_t *nonce = (const uint8_t *) &iv;
        return gcm->mb ? tp_mb_open(gcm, schedule, nonce, aad, known, text, n)
                       : tp_evp_open(gcm, schedule, nonce, aad, known, text, n);
    }
    /* Protect the packet whose header is b[:head]; plain text are b[head:own] and rest[:more]. The whole length, 0 when
       it cannot be: more than `window` behind the highest index, or the supplier refused. */
    static inline int tp_seal(const tp_gcm *gcm, const tp_keys *keys, int64_t *top, int window,
                              uint8_t *b, int head, int own, const uint8_t *rest, int more) {
        int64_t index = tp_index(*top, (uint16_t) (b[2] << 8 | b[3]));
        if (index - *top <= -window) return 0;
        if (!tp_seal_with(gcm, keys->rtp, tp_iv(keys->rtp_salt, tp_read32(b + 8), index), b, head, b, head, own, rest, more))
            return 0;
        if (index > *top) *top = index;
        return own + more + TP_TAG;
    }
    /* Protect the compound b[:n] (9.2, 9.3: header and last word are authenticated only). The whole length, 0 when 2^31
       are sent or the supplier refused. */
    static inline int tp_seal_rtcp(const tp_gcm *gcm, tp_keys *keys, uint8_t *b, int n) {
        uint8_t known[TP_RTCP_HEAD + TP_RTCP_WORD];
        uint32_t *last, index, word;
        if (n < TP_RTCP_HEAD || !(last = tp_told(keys, tp_read32(b + 4))) || *last == TP_ENCRYPTED - 1) return 0;
        index = *last + 1;
        word = htobe32(index | TP_ENCRYPTED);
        memcpy(known, b, TP_RTCP_HEAD);
        memcpy(known + TP_RTCP_HEAD, &word, TP_RTCP_WORD);
        if (!tp_seal_with(gcm, keys->rtcp, tp_iv(keys->rtcp_salt, tp_read32(b + 4), index), known, sizeof known,
                          b, TP_RTCP_HEAD, TP_RTCP_HEAD, b + TP_RTCP_HEAD, n - TP_RTCP_HEAD)) return 0;
        *last = index;
        memcpy(b + n + TP_TAG, &word, TP_RTCP_WORD);
        return n + TP_TAG + TP_RTCP_WORD;
    }
    """
    int TP_SALT
    const char* TP_MB
    ctypedef struct tp_gcm:
        pass
    ctypedef struct tp_keys:
        void* rtp
    void tp_gcm_take(tp_gcm* gcm, int i, uintptr_t address)
    int tp_keys_take(tp_keys* keys, const tp_gcm* gcm, const uint8_t* rtp, const uint8_t* rtp_salt, const uint8_t* rtcp,
                     const uint8_t* rtcp_salt)
    void tp_keys_free(tp_keys* keys, const tp_gcm* gcm)
    int tp_seal(const tp_gcm* gcm, const tp_keys* keys, int64_t* top, int window,
                uint8_t* b, int head, int own, const uint8_t* rest, int more)
    void tp_untell(tp_keys* keys, uint32_t ssrc)
    int tp_seal_rtcp(const tp_gcm* gcm, tp_keys* keys, uint8_t* b, int n)
