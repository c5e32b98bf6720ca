# The tables of the data plane as C structs; rows.py has the same fields and says what they mean.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Seen
cdef struct Past
cdef struct Rest
cdef struct Departure
cdef struct Transport
cdef struct Track
cdef struct Up
cdef struct Down
cdef struct Engine


cdef struct Seen:
    int at[16]
    int len[16]
    int payload
    int end
    int padding
    int flags
    int tid
    int picture_at
    int picture
    int tl0_at
    int tl0
    int keyidx_at
    int keyidx
    int width
    int height
    int parameters


cdef struct Past:
    uint32_t number
    uint32_t up
    uint32_t ts
    uint16_t out
    uint8_t used
    uint8_t tries


cdef struct Rest:
    uint32_t at
    uint16_t picture
    uint8_t tl0
    uint8_t keyidx


cdef struct Departure:
    uint32_t at
    uint16_t size
    uint8_t state


cdef struct Transport:
    uint32_t id
    int mode
    int keyed
    int port
    int64_t x_next
    Departure* x
    int ids[16]
    int listed
    int room
    uint32_t* s_ssrc
    int* s_what
    Up** s_up
    int64_t* s_at
    int* s_told
    int unbound
    int64_t refused
    int silenced
    Down** downs
    int n_downs
    uint32_t feedback_ssrc
    int kinds[256]
    uint8_t* l_data
    int l_end
    int l_n
    int* l_off
    int* l_len
    uint32_t* l_ssrc
    int64_t* l_at
    int64_t tokens_at
    int64_t tokens
    int64_t resend_at
    int64_t resend_tokens
    uint32_t q_ssrc[64]
    int q_n
    int w_on
    int w_started
    int64_t w_next
    int64_t w_top
    int w_pending
    int64_t w_due
    int w_count
    uint32_t w_media
    int64_t* w_at
    int64_t* w_seq
    int64_t f_bytes
    int64_t f_packets
    int64_t f_lost
    int64_t f_first
    int64_t f_last
    int f_any
    int64_t f_due
    int64_t f_at
    int64_t f_every
    int64_t d_n
    int64_t d_sent
    int64_t d_arrived
    int64_t d_at[64]
    int64_t d_variation[64]
    double d_point[64]
    double d_smoothed_ms
    double d_trend_ms
    double d_threshold_ms
    int64_t d_over_ns
    int64_t d_slot
    int64_t d_base[40]
    int g_open
    int64_t g_sent_first
    int64_t g_sent_last
    int64_t g_arrived
    int g_before
    int64_t g_before_sent
    int64_t g_before_arrived
    int64_t x_clock
    int x_clock_known
    int64_t remb_bps
    int64_t rtt_ns
    int64_t rr_due
    int64_t sr_due
    uint8_t c_name[32]
    int c_len
    uint8_t c_place[20]
    int c_place_len
    int64_t c_at
    int64_t c_n
    uint8_t c_ids[768]
    int64_t c_since
    int c_count


cdef struct Track:
    uint32_t id
    int codec
    int64_t clock_hz
    int enabled
    int has[4]
    Up* ups[4]
    Down** downs
    int n_downs
    Up* p_up[64]
    int p_slot[64]
    int p_n
    int cursor
    int64_t sr_due
    int waiting


cdef struct Up:
    uint32_t id
    uint32_t ssrc
    int layer
    int pt
    uint32_t rtx_ssrc
    int rtx_pt
    int nack
    int twcc
    Track* track
    Transport* transport
    int r_mask
    int r_bytes
    int64_t r_pos
    uint8_t* r_data
    uint32_t* r_seq
    uint8_t* r_used
    int64_t* r_off
    int* r_ext
    int* r_len
    uint32_t* r_ts
    int* r_flags
    uint8_t* r_tid
    uint8_t* r_picture_at
    int* r_picture
    uint8_t* r_tl0_at
    uint8_t* r_tl0
    uint8_t* r_keyidx_at
    uint8_t* r_keyidx
    int64_t* r_at
    int started
    int64_t top
    int64_t base
    int64_t floor
    uint32_t strange
    int strange_known
    int64_t epoch
    int64_t received
    int64_t expected_before
    int64_t received_before
    int64_t jitter16
    int64_t transit
    int transit_known
    int fraction
    int64_t packets
    int64_t bytes
    int64_t repaired
    int64_t nacks
    int64_t plis
    int64_t key_frames
    int64_t frames
    uint32_t frame_ts
    int frame_known
    uint32_t key_ts
    int key_known
    int parameters_seen
    int64_t last_at
    uint64_t sr_ntp
    uint32_t sr_ts
    int64_t sr_at
    int sr_known
    int64_t rtt_ns
    int n_missing
    int64_t n_seq[250]
    int64_t n_due[250]
    int64_t n_sent[250]
    int n_tries[250]
    int key_wanted
    int64_t pli_at
    int pli_before
    int a_loudest
    int64_t a_packets
    int64_t a_active
    int a_heard


# what every packet needs of a row stands in its first three cache lines
cdef struct Down:
    Track* track
    Transport* transport
    Past* h
    int64_t epoch
    int64_t last_at
    int64_t sr_due
    int64_t packets
    int64_t bytes
    int64_t octets
    int64_t frames
    int64_t top
    uint32_t ssrc
    uint32_t in_top
    uint32_t ts_off
    uint32_t frame_ts
    uint32_t c_start
    uint32_t c_seq
    uint32_t c_picture
    uint32_t c_tl0
    uint32_t c_keyidx
    uint32_t o_seq
    uint32_t o_ts
    uint32_t o_picture
    uint32_t o_tl0
    uint32_t o_keyidx
    uint32_t last_seq
    uint32_t last_ts
    uint32_t last_picture
    uint32_t last_tl0
    uint32_t last_keyidx
    int h_mask
    int8_t target
    int8_t layer
    int8_t temporal
    int8_t temporal_now
    int8_t raw
    int8_t tap
    int8_t filler
    int8_t has
    int8_t last_layer
    int8_t mid_len
    int8_t told_mid
    uint8_t pt
    uint8_t rtx_pt
    Rest* h_rest
    uint32_t id
    int session
    int64_t rtx_top
    uint8_t mid[32]
    uint32_t rtx_ssrc
    int64_t rtx_next
    uint32_t first_seq
    uint32_t first_ts
    uint32_t dropped_picture
    int dropped_known
    int n_ranges
    int range_head
    uint32_t g_start[16]
    uint32_t g_seq[16]
    uint32_t g_picture[16]
    uint32_t g_tl0[16]
    uint32_t g_keyidx[16]
    int64_t retransmitted
    int64_t nacks
    int64_t plis
    int64_t lost
    int fraction
    int64_t jitter
    int64_t rtt_ns
    uint32_t sr_mid
    int64_t sr_sent
    int64_t q_n
    int64_t q_limit
    int64_t q_lost


cdef struct Engine:
    uint8_t* buf
    int head
    int own
    int more
    int rest
    uint8_t* ring
    int64_t space
    int64_t now
    int64_t due
    Seen* seen
    uint8_t* note
    Transport** transports
    int n_transports
    Track** tracks
    int n_tracks
    Up** ups
    int n_ups
    Track* ready[64]
    int n_ready
    int r_cursor
    int threshold
    int64_t drops[24]
    int64_t totals[16]
    void (*emit)(Engine* e, Transport* t, int session, int n) noexcept nogil
    void (*carry)(Engine* e, Down* d, int as_rtx) noexcept nogil
    void (*report)(Engine* e, int kind, uint32_t a, int64_t b, int n) noexcept nogil
    void (*tap)(Engine* e, Down* d, Up* u, int slot) noexcept nogil
    void (*forget)(Engine* e, Transport* t, uint32_t ssrc) noexcept nogil
    void (*digest)(Engine* e, Transport* t, int n) noexcept nogil
