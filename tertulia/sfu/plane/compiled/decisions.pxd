# C types of the decisions: of all of `setup.DECISIONS`, which are compiled as one source.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tertulia.sfu.plane.compiled.ahead cimport departure_at, near, past_at, rest_at, soon
from tertulia.sfu.plane.compiled.bits cimport *
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.words cimport *

# codecs.py
cdef void look(Seen* s, int codec, const uint8_t* p, int o, int end) noexcept nogil
cdef void look_vp8(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void look_vp9(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void nal_h264(Seen* s, int kind) noexcept nogil
cdef void look_h264(Seen* s, const uint8_t* p, int o, int end) noexcept nogil
cdef void nal_h265(Seen* s, int kind) noexcept nogil
cdef void look_h265(Seen* s, const uint8_t* p, int o, int end) noexcept nogil

# header.py
cdef int measure(Seen* s, Transport* t, const uint8_t* p, int n) noexcept nogil
cdef void short_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
cdef void long_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil

# template.py
cdef int store(Up* u, Seen* s, const uint8_t* p, int64_t number, uint32_t timestamp, int64_t now) noexcept nogil
cdef int kept(Up* u, int64_t number) noexcept nogil
cdef int head(uint8_t* b, int o, int64_t number, int size, int long) noexcept nogil
cdef int needs_long_form(Transport* t, Up* u, int at, int end) noexcept nogil
cdef int extend(Engine* e, Down* d, Up* u, int at, int end) noexcept nogil
cdef void renumber(uint8_t* b, int o, Up* u, int slot, int picture, int tl0, int keyidx) noexcept nogil
cdef int build(Engine* e, Down* d, Up* u, int slot, int sequence, uint32_t timestamp, int picture, int tl0, int keyidx, int repair) noexcept nogil
cdef int fill(Engine* e, Down* d, Up* u) noexcept nogil
cdef void depart(Engine* e, Transport* t, int size) noexcept nogil

# munge.py
cdef int64_t BRIDGE_TOLERANCE_NS
cdef int64_t REPORTS_APART
cdef int64_t ticks(int64_t elapsed_ns, int64_t clock_hz) noexcept nogil
cdef void open_range(Down* d, uint32_t start, int64_t sequence, int64_t picture, int64_t tl0, int64_t keyidx) noexcept nogil
cdef void set_range(Down* d, uint32_t start, int64_t sequence, int64_t picture, int64_t tl0, int64_t keyidx) noexcept nogil
cdef int earlier_range(Down* d, uint32_t number) noexcept nogil
cdef uint32_t bridged(Engine* e, Down* d, Up* u, uint32_t timestamp, int64_t arrival) noexcept nogil
cdef void begin(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef int temporal_drop(Down* d, Up* u, int slot) noexcept nogil
cdef int select(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef void take_off(Down* d, Up* u, int slot, uint32_t sequence, uint32_t picture, uint32_t tl0, uint32_t keyidx) noexcept nogil
cdef int newest(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef int select_raw(Engine* e, Down* d, Up* u, int slot) noexcept nogil
cdef void sent(Down* d, Up* u, int slot) noexcept nogil

# repair.py
cdef int64_t SHORTEST_NS
cdef int64_t LONGEST_NS
cdef int64_t ASSUMED_RTT_NS
cdef int64_t pause_ns(Up* u, int tries) noexcept nogil
cdef void miss(Up* u, int64_t first, int64_t end, int64_t now) noexcept nogil
cdef void forget_first(Up* u, int count) noexcept nogil
cdef void move(Up* u, int to, int k) noexcept nogil
cdef int found(Up* u, int64_t number, int64_t now) noexcept nogil
cdef int64_t next_due(Up* u) noexcept nogil
cdef int ask(Up* u, uint8_t* b, uint32_t sender, int64_t now) noexcept nogil

# delay.py
cdef int64_t MILLISECOND
cdef int64_t POINTS
cdef double SMOOTHING
cdef double GAIN
cdef int64_t MOST_DELTAS
cdef double FIRST_THRESHOLD_MS
cdef double THRESHOLD_UP
cdef double THRESHOLD_DOWN
cdef double LEAST_THRESHOLD_MS
cdef double MOST_THRESHOLD_MS
cdef double OUTLIER_MS
cdef double LONGEST_MS
cdef int64_t OVERUSE_NS
cdef int64_t STANDING_NS
cdef int64_t RECENT_NS
cdef int64_t BASE_NS
cdef int64_t NEVER
cdef int64_t GROWING_QUEUE_NS
cdef int64_t FULL_QUEUE_NS
cdef int64_t SOME_QUEUE_NS
cdef int64_t SOME_LOSS
cdef void passed(Transport* t, int64_t send_delta, int64_t arrival_delta) noexcept nogil
cdef void remember(Transport* t, int64_t variation) noexcept nogil
cdef double slope(Transport* t) noexcept nogil
cdef void adapt(Transport* t, double elapsed_ms) noexcept nogil
cdef int64_t queued(Transport* t, int64_t window_ns) noexcept nogil
cdef int usage(Transport* t) noexcept nogil
cdef int is_pressing(Transport* t) noexcept nogil

# twcc.py
cdef int64_t TICK_NS
cdef int64_t REFERENCE_NS
cdef int64_t FEWEST_NS
cdef int64_t MANY
cdef int64_t STATUSES
cdef int64_t BURST_NS
cdef void arrived(Transport* t, int sequence, int64_t now) noexcept nogil
cdef int statuses(Transport* t, uint8_t* kinds, int64_t reference) noexcept nogil
cdef int64_t steps(int64_t elapsed) noexcept nogil
cdef int feedback(Engine* e, Transport* t) noexcept nogil
cdef int chunks(uint8_t* b, int o, const uint8_t* kinds, int count) noexcept nogil
cdef int after_chunks(const uint8_t* p, int o, int end, int count) noexcept nogil
cdef int receive(Transport* t, const uint8_t* p, int o, int end, int64_t now) noexcept nogil
cdef void lose(Transport* t, int64_t number) noexcept nogil
cdef int is_kept(Transport* t, int64_t number) noexcept nogil
cdef void acknowledge(Transport* t, int64_t number, int64_t arrival, int64_t now) noexcept nogil
cdef void close_group(Transport* t) noexcept nogil

# statistics.py
cdef int64_t SECOND_NS
cdef void clocked(Up* u, uint32_t timestamp, int64_t now) noexcept nogil
cdef int64_t lost(Up* u) noexcept nogil
cdef int report_block(Up* u, uint8_t* b, int o, int64_t now) noexcept nogil
cdef int receiver_report(uint8_t* b, uint32_t sender, int blocks) noexcept nogil
cdef int sender_report(Down* d, Up* u, uint8_t* b, int64_t now) noexcept nogil
cdef int picture_loss(uint8_t* b, uint32_t sender, uint32_t media) noexcept nogil
cdef void reported(Down* d, const uint8_t* p, int o, int64_t now) noexcept nogil
cdef int64_t remb(const uint8_t* p, int o, int end) noexcept nogil
cdef int64_t wide(int64_t v) noexcept nogil

# intake.py
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

# outflow.py
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

# rtcp.py
cdef int64_t SUMMARY_NS
cdef int64_t LONG_NS
cdef int64_t COMPANY_NS
cdef int rtcp_acceptable(Engine* e, Transport* t, const uint8_t* p, int n) noexcept nogil
cdef void rtcp(Engine* e, Transport* t, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef void part(Engine* e, Transport* t, const uint8_t* p, int o, int end, int64_t now) noexcept nogil
cdef void sender_info(Engine* e, Transport* t, const uint8_t* p, int o, int64_t now) noexcept nogil
cdef void blocks(Engine* e, Transport* t, const uint8_t* p, int o, int end, int count, int64_t now) noexcept nogil
cdef int find_down(Transport* t, uint32_t ssrc) noexcept nogil
cdef void nack(Engine* e, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
cdef void payload_feedback(Engine* e, Transport* t, const uint8_t* p, int o, int end, int form, int64_t now) noexcept nogil
cdef void lost_picture(Engine* e, Down* d) noexcept nogil
cdef void summarise(Engine* e, Transport* t, int pressing, int64_t now) noexcept nogil
cdef void attend(Engine* e, Transport* t, int64_t every_ns) noexcept nogil
cdef void put_off(Transport* t) noexcept nogil

# upkeep.py
cdef int64_t RECEIVER_REPORT_NS
cdef int64_t SENDER_REPORT_NS
cdef int64_t TOGETHER_NS
cdef int64_t BLOCKS
cdef int64_t IDLE_NS
cdef void tick(Engine* e, int64_t now) noexcept nogil
cdef void tend_transport(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void send_feedback(Engine* e, Transport* t) noexcept nogil
cdef void report_reception(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void summary(Engine* e, Transport* t, int64_t now) noexcept nogil
cdef void tend_up(Engine* e, Up* u, int64_t now) noexcept nogil
cdef void report_senders(Engine* e, Track* tr, int64_t now) noexcept nogil

# tables.py
cdef void add_transport(Engine* e, Transport* t) noexcept nogil
cdef void remove_transport(Engine* e, Transport* t) noexcept nogil
cdef void add_track(Engine* e, Track* tr) noexcept nogil
cdef void remove_track(Engine* e, Track* tr) noexcept nogil
cdef void name_ssrc(Engine* e, Transport* t, Up* u, uint32_t ssrc, int what, int64_t now) noexcept nogil
cdef void add_up(Engine* e, Up* u, int64_t now) noexcept nogil
cdef void remove_up(Engine* e, Up* u) noexcept nogil
cdef void enable(Track* tr, int enabled) noexcept nogil
cdef void add_down(Down* d) noexcept nogil
cdef void remove_down(Down* d) noexcept nogil

# consent.py
cdef int64_t COOKIE
cdef int64_t REQUEST
cdef int64_t SUCCESS
cdef int64_t USERNAME
cdef int64_t INTEGRITY
cdef int64_t XOR_MAPPED
cdef int64_t PRIORITY
cdef int64_t NOMINATION
cdef int64_t FINGERPRINT
cdef int64_t CONTROLLED
cdef int64_t CONTROLLING
cdef int64_t FINGERPRINT_XOR
cdef int64_t DIGEST
cdef int64_t MAX_CHECK
cdef int64_t CHECKS_PER_SECOND
cdef int64_t CHECK_WINDOW_NS
cdef int consent(Engine* e, Transport* t, const uint8_t* p, int n, int64_t now) noexcept nogil
cdef int understood(Transport* t, const uint8_t* p, int n) noexcept nogil
cdef int is_plain(int kind, int size) noexcept nogil
cdef int names(Transport* t, const uint8_t* p, int o, int size) noexcept nogil
cdef int seldom(Transport* t, int64_t now) noexcept nogil
cdef int authentic(Engine* e, Transport* t, const uint8_t* p, int covered) noexcept nogil
cdef void sign(Engine* e, Transport* t, int covered) noexcept nogil
cdef int success(Engine* e, Transport* t, const uint8_t* p) noexcept nogil
cdef int was_answered(Transport* t, const uint8_t* transaction) noexcept nogil
