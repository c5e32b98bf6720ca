"""The plumbing, compiled: sockets, SRTP by function pointer (AES-GCM by `seal` and `heard`), UDP GSO and GRO, one data
thread per Port that never takes the GIL.

All tables belong to one lock. A data thread receives a batch outside of it, decides, copies and encrypts under it, and
sends outside of it: the system calls are nine tenths of the cost, so several Ports scale although the tables are shared,
and a track may fan out to transports of any Port. libsrtp sessions are only ever used under the lock, by whichever
thread holds it. Reports and tap packets are linked lists that Python takes whole; an eventfd says that there are some.
The decisions are the ones of the interpreted life, compiled from the same files.
"""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize, PyBytes_Size
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from tertulia.sfu.plane.compiled.decisions cimport (
    acceptable, add_down, add_track, add_transport, add_up, affordable, aim, attend, consent, enable, fan_out, lost,
    name_ssrc, remove_down, remove_track, remove_transport, remove_up, renumber, replay, rtcp, rtcp_acceptable, rtp, tick,
    want_layer, was_answered,
)
from tertulia.sfu.plane.compiled.heard cimport *
from tertulia.sfu.plane.compiled.memory cimport *
from tertulia.sfu.plane.compiled.rows cimport Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.compiled.seal cimport *
from tertulia.sfu.plane.compiled.sys cimport *
from tertulia.sfu.plane.compiled.words cimport *

from tertulia.sfu.plane import sizes, srtp
from tertulia.sfu.plane.core import UnknownHandle

ctypedef int (*srtp_call)(void* session, void* packet, int* length) noexcept nogil
ctypedef int (*srtp_remove)(void* session, uint32_t ssrc) noexcept nogil
ctypedef uint8_t* (*hmac_call)(const void* digest, const void* key, int key_size, const uint8_t* data, size_t n,
                               uint8_t* to, unsigned int* size) noexcept nogil

cdef enum:
    BATCH = 64
    SLOT = 2048
    LONGEST = 65536              # of a received message: one datagram, or several of one sender
    MESSAGES = 128
    ARENA = MESSAGES * SLOT
    SEGMENTS = 60
    RUN_BYTES = 60000
    SOCKETS = 64
    PER_CALL = 64
    LONGEST_WAIT_MS = 100
    R_SENT = 100
    WINDOW = 128                 # srtp.OUTBOUND_WINDOW_PACKETS, a test compares them

# A row gets all packets that wait for it at once: an empty buffer that cannot take them would be flushed forever. A batch
# that a track or the list of tracks cannot note would be lost without a name.
if MESSAGES - 1 < PENDING or <int> BATCH > <int> PENDING or <int> BATCH > <int> READY:
    raise ImportError(f"a send buffer of {MESSAGES} and batches of {BATCH} do not fit lists of {PENDING} and {READY}")

MULTI_BUFFER = TP_MB.decode()
"""Version of the multi-buffer library whose layout was compiled in, "" for none."""

cdef struct Note:                # a report, or a datagram of the test mode
    Note* next
    int kind
    uint32_t a
    int64_t b
    int n
    int sock
    tp_addr place
    uint8_t body[1]

cdef struct Kept:                # a tapped packet
    Kept* next
    int64_t at
    uint32_t seq
    uint32_t ts
    int marker
    int key
    int layer
    int n
    uint8_t body[1]

cdef struct Link:                # a transport and what the plumbing knows of it
    Transport row
    int sock
    tp_addr place
    int secure
    void* inbound
    void** outbound
    tp_keys sends                # no keys: libsrtp's sessions do it
    tp_keys hears
    tp_heard heard
    char password[MAX_PASSWORD]  # of the checks in use
    int password_len
    int downs_room

cdef struct Group:               # a track and the length of its list
    Track row
    int downs_room

cdef struct Row:                 # a down track, or a tap with its queue
    Down row
    Kept* head
    Kept* tail

cdef struct Place:               # the address table
    tp_addr place
    int sock
    Link* link

cdef struct Out:                 # what a thread has built and not yet sent
    uint8_t* arena
    int end
    int count
    mmsghdr* messages
    iovec* parts
    char* controls
    tp_addr* places
    int* socks
    int* sizes                   # of the segments
    int size                     # segment size of the last message
    int segments                 # in the last message; 0: closed
    uint32_t last                # transport of the last message
    int64_t dropped
    int64_t failed
    int64_t segmented

cdef struct Plumbing:            # the engine with everything around it
    Engine e
    Out* out
    pthread_mutex_t lock
    int wanted                   # control threads that wait for the lock
    int stop
    int fds[SOCKETS]
    int families[SOCKETS]
    int gso[SOCKETS]
    int bell
    int wake
    int64_t rests_until          # when the thread behind `wake` looks again by itself
    int memory                   # test mode: nothing is sent, no reports ring
    Note* head
    Note* tail
    int notes
    int notes_limit
    Note* sent_head
    Note* sent_tail
    Place* places
    int n_places
    int places_room
    int* slots
    int slots_mask
    uint64_t seed
    int transports_room
    int tracks_room
    int ups_room
    srtp_call protect
    srtp_call unprotect
    srtp_call protect_rtcp
    srtp_call unprotect_rtcp
    srtp_remove remove_stream
    hmac_call hmac
    void* sha1
    tp_gcm gcm


# ------------------------------------------------------------------------------------------------ sending

cdef Out* new_out(int huge) noexcept nogil:
    """`huge`: for a data thread, whose packets all pass through here."""
    cdef Out* o = <Out*> calloc(1, sizeof(Out))
    o.arena = <uint8_t*> (tp_huge(ARENA) if huge else malloc(ARENA))
    o.messages = <mmsghdr*> calloc(MESSAGES, sizeof(mmsghdr))
    o.parts = <iovec*> calloc(MESSAGES, sizeof(iovec))
    o.controls = <char*> calloc(MESSAGES, TP_CONTROL)
    o.places = <tp_addr*> calloc(MESSAGES, sizeof(tp_addr))
    o.socks = <int*> calloc(MESSAGES, sizeof(int))
    o.sizes = <int*> calloc(MESSAGES, sizeof(int))
    return o


cdef void free_out(Out* o) noexcept nogil:
    free(o.arena)
    free(o.messages)
    free(o.parts)
    free(o.controls)
    free(o.places)
    free(o.socks)
    free(o.sizes)
    free(o)


cdef void use(Plumbing* p, Out* o) noexcept nogil:
    """The lock is ours: what is built goes to this buffer."""
    p.out = o
    p.e.buf = o.arena + o.end
    p.e.space = room(o)


cdef inline int64_t room(Out* o) noexcept nogil:
    cdef int64_t by_bytes = (ARENA - o.end) // SLOT - 1
    cdef int64_t by_count = MESSAGES - o.count
    return by_bytes if by_bytes < by_count else by_count


cdef void emit(Engine* e, Transport* t, int session, int n) noexcept nogil:
    """Protect the RTCP packet that stands at the end of the arena and queue it; -1 for a session: as it is."""
    cdef Plumbing* p = <Plumbing*> e
    cdef Link* link = <Link*> t
    if t.mode == M_NONE or not t.keyed:
        return
    if session < 0:
        pass
    elif link.sends.rtp != NULL:
        n = tp_seal_rtcp(&p.gcm, &link.sends, e.buf, n)
    elif link.secure and p.protect_rtcp(link.outbound[session], e.buf, &n):
        n = 0
    if n == 0:
        e.drops[D_OVERSIZE] += 1
        return
    queue(p, link, n)


cdef void carry(Engine* e, Down* d, int as_rtx) noexcept nogil:
    """Complete the RTP packet that begins at the end of the arena, protect it and queue it."""
    cdef Plumbing* p = <Plumbing*> e
    cdef Link* link = <Link*> d.transport
    cdef int n
    if link.row.mode == M_NONE or not link.row.keyed:
        return
    if link.sends.rtp != NULL:
        n = tp_seal(&p.gcm, &link.sends, &d.rtx_top if as_rtx else &d.top, WINDOW, e.buf, e.head, e.own,
                    e.ring + e.rest, e.more)
        if n == 0:
            e.drops[D_OVERSIZE] += 1
            return
    else:
        memcpy(e.buf + e.own, e.ring + e.rest, e.more)
        n = e.own + e.more
        if link.secure and p.protect(link.outbound[d.session], e.buf, &n):
            e.drops[D_OVERSIZE] += 1
            return
    queue(p, link, n)


cdef void queue(Plumbing* p, Link* link, int n) noexcept nogil:
    """The datagram at the end of the arena is complete: one more segment of the last message, where that fits."""
    cdef Engine* e = &p.e
    cdef Transport* t = &link.row
    cdef Out* o = p.out
    cdef int k
    if t.mode == M_FRAMES:
        post(p, R_OUTGOING, t.id, 0, e.buf, n, -1, NULL)
        return
    if p.memory:
        remember(p, link, e.buf, n)
        return
    k = o.count - 1
    if (
        o.segments and o.last == t.id and n <= o.size and o.segments < SEGMENTS and p.gso[link.sock]
        and o.parts[k].iov_len + n <= RUN_BYTES and o.socks[k] == link.sock and tp_same(&o.places[k], &link.place)
    ):
        o.parts[k].iov_len += n
        o.segments = 0 if n < o.size else o.segments + 1
        if o.messages[k].msg_hdr.msg_control == NULL:
            tp_segment(&o.messages[k].msg_hdr, o.controls + k * TP_CONTROL, o.size)
            o.segmented += 1
        o.segmented += 1
    else:
        k = o.count
        o.count += 1
        o.places[k] = link.place
        o.socks[k] = link.sock
        o.sizes[k] = n
        o.parts[k].iov_base = e.buf
        o.parts[k].iov_len = n
        memset(&o.messages[k], 0, sizeof(mmsghdr))
        o.messages[k].msg_hdr.msg_name = &o.places[k]
        o.messages[k].msg_hdr.msg_namelen = tp_length(&o.places[k])
        o.messages[k].msg_hdr.msg_iov = &o.parts[k]
        o.messages[k].msg_hdr.msg_iovlen = 1
        o.last = t.id
        o.size = n
        o.segments = 1
    o.end += n
    if room(o) < 1:
        flush(p, o)
    e.buf = o.arena + o.end
    e.space = room(o)


cdef void flush(Plumbing* p, Out* o) noexcept nogil:
    """Send everything; the lock is not needed. What the kernel does not take is dropped and counted, never waited for."""
    cdef int i = 0, n, took
    while i < o.count:
        n = 1
        while i + n < o.count and n < PER_CALL and o.socks[i + n] == o.socks[i]:
            n += 1
        took = sendmmsg(p.fds[o.socks[i]], o.messages + i, n, MSG_DONTWAIT)
        if took > 0:
            i += took
            continue
        if o.messages[i].msg_hdr.msg_control != NULL and (errno == EIO or errno == EINVAL or errno == EOPNOTSUPP):
            # no checksum offload here, or a kernel before 4.18: never again on this socket
            p.gso[o.socks[i]] = 0
            one_by_one(p, o, i)
        elif errno == EAGAIN or errno == ENOBUFS:
            o.dropped += segments_of(o, i)
        else:
            o.failed += segments_of(o, i)
        i += 1
    o.count = 0
    o.end = 0
    o.segments = 0


cdef int segments_of(Out* o, int i) noexcept nogil:
    return (<int> o.parts[i].iov_len + o.sizes[i] - 1) // o.sizes[i]


cdef void one_by_one(Plumbing* p, Out* o, int i) noexcept nogil:
    """A segmented message as single datagrams."""
    cdef int size = o.sizes[i], at = 0, n = <int> o.parts[i].iov_len, part
    o.segmented -= segments_of(o, i)
    while at < n:
        part = size if n - at > size else n - at
        if tp_send(p.fds[o.socks[i]], <uint8_t*> o.parts[i].iov_base + at, part, &o.places[i]) < 0:
            if errno == EAGAIN or errno == ENOBUFS:
                o.dropped += 1
            else:
                o.failed += 1
        at += part


cdef void settle(Plumbing* p, Out* o) noexcept nogil:
    """The lock is ours: figures of what was sent go into the totals."""
    p.e.drops[D_SEND_BUFFER] += o.dropped
    p.e.totals[T_SEND_ERRORS] += o.failed
    p.e.totals[T_GSO_SEGMENTS] += o.segmented
    o.dropped = 0
    o.failed = 0
    o.segmented = 0


# ------------------------------------------------------------------------------------------------ reports and taps

cdef Note* new_note(int kind, uint32_t a, int64_t b, const uint8_t* body, int n) noexcept nogil:
    cdef Note* note = <Note*> malloc(sizeof(Note) + n)
    if note == NULL:
        return NULL
    memset(note, 0, sizeof(Note))
    note.kind = kind
    note.a = a
    note.b = b
    note.n = n
    memcpy(note.body, body, n)
    return note


cdef void post(Plumbing* p, int kind, uint32_t a, int64_t b, const uint8_t* body, int n, int sock,
               const tp_addr* place) noexcept nogil:
    """One report for Python; the bell rings when it is the first."""
    cdef Note* note
    cdef uint64_t one = 1
    if p.notes >= p.notes_limit:
        p.e.drops[D_REPORT_QUEUE] += 1
        return
    note = new_note(kind, a, b, body, n)
    if note == NULL:
        p.e.drops[D_REPORT_QUEUE] += 1
        return
    note.sock = sock
    if place != NULL:
        note.place = place[0]
    if p.tail != NULL:
        p.tail.next = note
    else:
        p.head = note
        if p.bell >= 0:
            write(p.bell, &one, 8)
    p.tail = note
    p.notes += 1


cdef void remember(Plumbing* p, Link* link, const uint8_t* data, int n) noexcept nogil:
    """Test mode: a datagram that would have been sent."""
    cdef Note* note = new_note(R_SENT, 0, 0, data, n)
    if note == NULL:
        return
    note.sock = link.sock
    note.place = link.place
    if p.sent_tail != NULL:
        p.sent_tail.next = note
    else:
        p.sent_head = note
    p.sent_tail = note


cdef void report(Engine* e, int kind, uint32_t a, int64_t b, int n) noexcept nogil:
    post(<Plumbing*> e, kind, a, b, e.note, n, -1, NULL)


cdef void tap(Engine* e, Down* d, Up* u, int slot) noexcept nogil:
    cdef Row* row = <Row*> d
    cdef Kept* kept
    if d.q_n >= d.q_limit:
        d.q_lost += 1
        e.drops[D_TAP_QUEUE] += 1
        return
    kept = <Kept*> malloc(sizeof(Kept) + u.r_len[slot])
    if kept == NULL:
        d.q_lost += 1
        e.drops[D_TAP_QUEUE] += 1
        return
    kept.next = NULL
    kept.at = u.r_at[slot]
    kept.seq = d.o_seq
    kept.ts = d.o_ts
    kept.marker = u.r_flags[slot] & F_MARKER
    kept.key = 1 if u.r_flags[slot] & F_KEY else 0
    kept.layer = u.layer
    kept.n = 0 if d.filler else u.r_len[slot]
    memcpy(kept.body, u.r_data + (u.r_off[slot] & (u.r_bytes - 1)) + u.r_ext[slot], kept.n)
    if kept.n:
        renumber(kept.body, 0, u, slot, d.o_picture, d.o_tl0, d.o_keyidx)
    d.q_n += 1
    if row.tail != NULL:
        row.tail.next = kept
    else:
        row.head = kept
    row.tail = kept


cdef void forget(Engine* e, Transport* t, uint32_t ssrc) noexcept nogil:
    cdef Plumbing* p = <Plumbing*> e
    cdef Link* link = <Link*> t
    if link.hears.rtp != NULL:
        tp_forget(&link.heard, ssrc)
    elif link.secure:
        p.remove_stream(link.inbound, tp_swap(ssrc))


cdef void digest(Engine* e, Transport* t, int n) noexcept nogil:
    cdef Plumbing* p = <Plumbing*> e
    cdef Link* link = <Link*> t
    p.hmac(p.sha1, link.password, link.password_len, e.buf, n, e.note, NULL)


# ------------------------------------------------------------------------------------------------ addresses

cdef Link* whose(Plumbing* p, const tp_addr* place, int sock) noexcept nogil:
    cdef int i
    cdef uint64_t k = tp_hash(place, sock, p.seed)
    if p.slots == NULL:
        return NULL
    while True:
        i = p.slots[k & <uint64_t> p.slots_mask]
        if i < 0:
            return NULL
        if p.places[i].sock == sock and tp_same(&p.places[i].place, place):
            return p.places[i].link
        k += 1


cdef void index_places(Plumbing* p) noexcept nogil:
    """Build the hash table anew, at most half full."""
    cdef int i, size = 64
    cdef uint64_t k
    while size < 2 * p.n_places + 2:
        size *= 2
    if p.slots == NULL or size != p.slots_mask + 1:
        p.slots = <int*> realloc(p.slots, size * sizeof(int))
        p.slots_mask = size - 1
    for i in range(size):
        p.slots[i] = -1
    for i in range(p.n_places):
        k = tp_hash(&p.places[i].place, p.places[i].sock, p.seed)
        while p.slots[k & <uint64_t> p.slots_mask] >= 0:
            k += 1
        p.slots[k & <uint64_t> p.slots_mask] = i


cdef void forget_place(Plumbing* p, const tp_addr* place, int sock, Link* link) noexcept nogil:
    """Out of the table: one address (place given), or every one of a transport."""
    cdef int i = 0
    while i < p.n_places:
        if (place == NULL or (p.places[i].sock == sock and tp_same(&p.places[i].place, place))) and (
            link == NULL or p.places[i].link == link
        ):
            p.n_places -= 1
            p.places[i] = p.places[p.n_places]
        else:
            i += 1


cdef void add_place(Plumbing* p, const tp_addr* place, int sock, Link* link) noexcept nogil:
    forget_place(p, place, sock, NULL)
    if p.n_places == p.places_room:
        p.places_room = 2 * p.places_room + 16
        p.places = <Place*> realloc(p.places, p.places_room * sizeof(Place))
    p.places[p.n_places].place = place[0]
    p.places[p.n_places].sock = sock
    p.places[p.n_places].link = link
    p.n_places += 1
    index_places(p)


# ------------------------------------------------------------------------------------------------ receiving

cdef void datagram(Plumbing* p, int64_t now, const tp_addr* place, int sock, uint8_t* data, int n) noexcept nogil:
    """RFC 7983: STUN and DTLS are the control side's, the rest is media of a known address."""
    cdef Engine* e = &p.e
    cdef Link* link
    e.totals[T_PACKETS_IN] += 1
    e.totals[T_BYTES_IN] += n
    if n == 0:
        e.drops[D_MALFORMED] += 1
        return
    link = whose(p, place, sock)
    if data[0] < 4 and link != NULL and is_selected(link, place, sock) and consent(e, &link.row, data, n, now):
        return
    if data[0] < 4 or 20 <= data[0] < 64:
        post(p, R_DATAGRAM, link.row.id if link != NULL else 0, 0, data, n, sock, place)
    elif data[0] < 128 or data[0] >= 192:
        e.drops[D_MALFORMED] += 1
    elif link == NULL:
        e.drops[D_UNKNOWN_ADDRESS] += 1
    else:
        media(p, now, link, data, n)


cdef int is_selected(Link* link, const tp_addr* place, int sock) noexcept nogil:
    return link.row.mode == M_UDP and link.sock == sock and tp_same(&link.place, place)


cdef void media(Plumbing* p, int64_t now, Link* link, uint8_t* data, int n) noexcept nogil:
    """SRTP or SRTCP of a transport, decrypted in place."""
    cdef Engine* e = &p.e
    cdef Transport* t = &link.row
    if not t.keyed:
        e.drops[D_NO_KEYS] += 1
        return
    if not affordable(e, t, now):
        return
    if n >= 2 and 192 <= data[1] < 224:
        if rtcp_acceptable(e, t, data, n) and plain(p, 1, link, data, &n):
            rtcp(e, t, data, n, now)
    elif acceptable(e, t, data, n, now) and plain(p, 0, link, data, &n):
        rtp(e, t, data, n, now)


cdef int plain(Plumbing* p, int is_rtcp, Link* link, uint8_t* data, int* n) noexcept nogil:
    cdef int status, again
    if link.hears.rtp != NULL:
        if is_rtcp:
            status = tp_open_rtcp(&p.gcm, &link.hears, &link.heard, data, n)
        else:
            status = tp_open(&p.gcm, &link.hears, &link.heard, data, n)
        again = status == TP_AGAIN
    elif link.secure:
        status = (p.unprotect_rtcp if is_rtcp else p.unprotect)(link.inbound, data, n)
        again = status == 9 or status == 10  # srtp_err_status_replay_fail, srtp_err_status_replay_old
    else:
        return 1
    if status == 0:
        return 1
    p.e.drops[D_REPLAY if again else D_AUTHENTICATION] += 1
    return 0


cdef void serve(Plumbing* p, Out* o) noexcept nogil:
    """Fan out everything that waits, giving up the lock to send whenever the buffer is full."""
    while fan_out(&p.e):
        unlock(p)
        flush(p, o)
        lock(p)
        use(p, o)


cdef void lock(Plumbing* p) noexcept nogil:
    pthread_mutex_lock(&p.lock)


cdef void unlock(Plumbing* p) noexcept nogil:
    """Let go, and let a control thread that waits have its turn."""
    cdef int tries = 0
    pthread_mutex_unlock(&p.lock)
    while tp_load(&p.wanted) and tries < 64:
        sched_yield()
        tries += 1


cdef struct Intake:              # scratch of one data thread
    uint8_t* arena
    mmsghdr* messages
    iovec* parts
    char* controls
    tp_addr* places


cdef void new_intake(Intake* b) noexcept nogil:
    cdef int i
    b.arena = <uint8_t*> malloc(BATCH * LONGEST)  # never cleared: short messages touch the first page of a slot only
    b.messages = <mmsghdr*> calloc(BATCH, sizeof(mmsghdr))
    b.parts = <iovec*> calloc(BATCH, sizeof(iovec))
    b.controls = <char*> calloc(BATCH, TP_CONTROL)
    b.places = <tp_addr*> calloc(BATCH, sizeof(tp_addr))
    for i in range(BATCH):
        b.parts[i].iov_base = b.arena + i * LONGEST
        b.parts[i].iov_len = LONGEST
        b.messages[i].msg_hdr.msg_iov = &b.parts[i]
        b.messages[i].msg_hdr.msg_iovlen = 1
        b.messages[i].msg_hdr.msg_name = &b.places[i]


cdef void free_intake(Intake* b) noexcept nogil:
    free(b.arena)
    free(b.messages)
    free(b.parts)
    free(b.controls)
    free(b.places)


cdef int receive_batch(Plumbing* p, Intake* b, int sock) noexcept nogil:
    cdef int i
    for i in range(BATCH):
        # the kernel wrote over what it was told
        b.messages[i].msg_hdr.msg_namelen = sizeof(tp_addr)
        b.messages[i].msg_hdr.msg_control = b.controls + i * TP_CONTROL
        b.messages[i].msg_hdr.msg_controllen = TP_CONTROL
    return recvmmsg(p.fds[sock], b.messages, BATCH, MSG_DONTWAIT, NULL)


cdef void begin(Plumbing* p, Out* o, int64_t now) noexcept nogil:
    """Take the lock for a batch; a fan-out that another thread interrupted comes first."""
    lock(p)
    use(p, o)
    serve(p, o)
    p.e.now = now


cdef void finish(Plumbing* p, Out* o) noexcept nogil:
    """Fan out the batch, give the lock back and send."""
    serve(p, o)
    settle(p, o)
    unlock(p)
    flush(p, o)


cdef void take(Plumbing* p, Intake* b, Out* o, int sock, int n) noexcept nogil:
    """n messages, each one datagram or several of one sender (UDP GRO): all but the last of those are equally long."""
    cdef int64_t now = tp_now()
    cdef int i, at, size, part, whole, taken = 0
    begin(p, o, now)
    for i in range(n):
        tp_normal(&b.places[i])
        whole = <int> b.messages[i].msg_len
        size = tp_coalesced(&b.messages[i].msg_hdr)
        if size == 0:
            size = whole
        at = 0
        while True:  # an empty datagram is one, too
            if taken == BATCH:  # a track can note no more before they are fanned out
                finish(p, o)
                begin(p, o, now)
                taken = 0
            part = min(size, whole - at, <int> SLOT)
            datagram(p, now, &b.places[i], sock, b.arena + i * LONGEST + at, part)
            taken += 1
            at += size
            if at >= whole:
                break
    finish(p, o)


cdef void run_port(Plumbing* p, int first, int count, int wake) noexcept nogil:
    """A data thread: the sockets first..first+count-1, until `stop`."""
    cdef Intake b
    cdef Out* o = new_out(1)
    cdef pollfd fds[SOCKETS + 1]
    cdef int i, k, n, wait, ready
    cdef int64_t now
    cdef uint64_t scratch
    tp_short_turns()
    new_intake(&b)
    for i in range(count):
        tp_coalesce(p.fds[first + i])
        fds[i].fd = p.fds[first + i]
        fds[i].events = POLLIN
    fds[count].fd = wake
    fds[count].events = POLLIN
    wait = 0
    while not tp_load(&p.stop):
        ready = poll(fds, count + 1, wait)
        if ready > 0 and fds[count].revents:
            read(wake, &scratch, 8)
        for k in range(count):
            if ready <= 0 or not fds[k].revents:
                continue
            n = receive_batch(p, &b, first + k)
            if n > 0:
                take(p, &b, o, first + k, n)
        now = tp_now()
        lock(p)
        use(p, o)
        if p.e.due and p.e.due <= now:
            serve(p, o)
            tick(&p.e, now)
        wait = LONGEST_WAIT_MS
        if p.e.due and p.e.due - now < LONGEST_WAIT_MS * 1000000:
            wait = <int> ((p.e.due - now + 999999) // 1000000)
            if wait < 0:
                wait = 0
        if wake == p.wake:
            p.rests_until = now + wait * 1000000
        settle(p, o)
        unlock(p)
        flush(p, o)
    free_intake(&b)
    free_out(o)


# ------------------------------------------------------------------------------------------------ tables

cdef void* more(void* rows, int count, int* room) noexcept nogil:
    """A list of pointers with room for one more behind `count`."""
    if count < room[0]:
        return rows
    room[0] = 2 * room[0] + 16
    return realloc(rows, room[0] * sizeof(void*))


cdef void more_ssrcs(Transport* t, int count) noexcept nogil:
    if t.room >= count:
        return
    t.room = count + 16
    t.s_ssrc = <uint32_t*> realloc(t.s_ssrc, t.room * sizeof(uint32_t))
    t.s_what = <int*> realloc(t.s_what, t.room * sizeof(int))
    t.s_up = <Up**> realloc(t.s_up, t.room * sizeof(Up*))
    t.s_at = <int64_t*> realloc(t.s_at, t.room * sizeof(int64_t))
    t.s_told = <int*> realloc(t.s_told, t.room * sizeof(int))


cdef Link* new_link() noexcept nogil:
    cdef Link* link = <Link*> tp_take(sizeof(Link))
    cdef Transport* t = &link.row
    cdef int k
    more_ssrcs(t, MAX_UNBOUND)
    for k in range(256):
        t.kinds[k] = X_NONE
    t.l_data = <uint8_t*> malloc(LIMBO_BYTES)
    t.l_off = <int*> calloc(LIMBO_PACKETS, sizeof(int))
    t.l_len = <int*> calloc(LIMBO_PACKETS, sizeof(int))
    t.l_ssrc = <uint32_t*> calloc(LIMBO_PACKETS, sizeof(uint32_t))
    t.l_at = <int64_t*> calloc(LIMBO_PACKETS, sizeof(int64_t))
    t.w_at = <int64_t*> calloc(ARRIVALS, sizeof(int64_t))
    t.w_seq = <int64_t*> calloc(ARRIVALS, sizeof(int64_t))
    t.x = <Departure*> tp_take(SENT * sizeof(Departure))
    return link


cdef void free_link(Link* link) noexcept nogil:
    cdef Transport* t = &link.row
    free(t.s_ssrc); free(t.s_what); free(t.s_up); free(t.s_at); free(t.s_told)
    free(t.l_data); free(t.l_off); free(t.l_len); free(t.l_ssrc); free(t.l_at)
    free(t.w_at); free(t.w_seq)
    tp_give(t.x, SENT * sizeof(Departure))
    free(t.downs)
    free(link.outbound)
    tp_heard_free(&link.heard)
    tp_give(link, sizeof(Link))


cdef Up* new_up(int packets, int size) noexcept nogil:
    cdef Up* u = <Up*> calloc(1, sizeof(Up))
    u.r_mask = packets - 1
    u.r_bytes = size
    u.r_data = <uint8_t*> malloc(size)
    u.r_seq = <uint32_t*> calloc(packets, sizeof(uint32_t))
    u.r_used = <uint8_t*> calloc(packets, 1)
    u.r_off = <int64_t*> calloc(packets, sizeof(int64_t))
    u.r_ext = <int*> calloc(packets, sizeof(int))
    u.r_len = <int*> calloc(packets, sizeof(int))
    u.r_ts = <uint32_t*> calloc(packets, sizeof(uint32_t))
    u.r_flags = <int*> calloc(packets, sizeof(int))
    u.r_tid = <uint8_t*> calloc(packets, 1)
    u.r_picture_at = <uint8_t*> calloc(packets, 1)
    u.r_picture = <int*> calloc(packets, sizeof(int))
    u.r_tl0_at = <uint8_t*> calloc(packets, 1)
    u.r_tl0 = <uint8_t*> calloc(packets, 1)
    u.r_keyidx_at = <uint8_t*> calloc(packets, 1)
    u.r_keyidx = <uint8_t*> calloc(packets, 1)
    u.r_at = <int64_t*> calloc(packets, sizeof(int64_t))
    u.a_loudest = 127
    u.a_heard = 127
    return u


cdef void free_up(Up* u) noexcept nogil:
    free(u.r_data); free(u.r_seq); free(u.r_used); free(u.r_off); free(u.r_ext); free(u.r_len); free(u.r_ts)
    free(u.r_flags); free(u.r_tid); free(u.r_picture_at); free(u.r_picture); free(u.r_tl0_at); free(u.r_tl0)
    free(u.r_keyidx_at); free(u.r_keyidx); free(u.r_at)
    free(u)


cdef Row* new_row(int history) noexcept nogil:
    cdef Row* row = <Row*> tp_take(sizeof(Row))
    cdef Down* d = &row.row
    d.target = -1
    d.layer = -1
    d.temporal = 7
    d.temporal_now = 7
    if history:
        d.h_mask = history - 1
        d.h = <Past*> tp_take(history * sizeof(Past))
        d.h_rest = <Rest*> tp_take(history * sizeof(Rest))
    return row


cdef void free_kept(Kept* kept) noexcept nogil:
    cdef Kept* following
    while kept != NULL:
        following = kept.next
        free(kept)
        kept = following


cdef void free_row(Row* row) noexcept nogil:
    cdef Down* d = &row.row
    free_kept(row.head)
    tp_give(d.h, (d.h_mask + 1) * sizeof(Past))
    tp_give(d.h_rest, (d.h_mask + 1) * sizeof(Rest))
    tp_give(row, sizeof(Row))


cdef void free_notes(Note* note) noexcept nogil:
    cdef Note* following
    while note != NULL:
        following = note.next
        free(note)
        note = following


include "native_core.pxi"
