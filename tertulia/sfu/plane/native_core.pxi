# `Core` over the plumbing: part of native.pyx.


@cython.no_gc_clear
cdef class Native:
    """`Core`, compiled. `sockets` are bound UDP sockets of all Ports in a row; without any it is the test mode, where
    datagrams go in by `step` and come out by `sent`, and time is what the last call said. `supplier`: one of
    srtp.SUPPLIERS, whose AES-GCM is used; "" is libsrtp's."""

    cdef Plumbing* p
    cdef Out* out
    cdef dict links, tracks, ups, downs, sessions, seats
    cdef object keep
    cdef int64_t test_now
    cdef uint8_t* scratch
    cdef object supplier

    life = "compiled"

    def __cinit__(self, sockets, seed=0, supplier="openssl"):
        cdef Plumbing* p = <Plumbing*> calloc(1, sizeof(Plumbing))
        cdef uintptr_t call
        if p == NULL:
            raise MemoryError
        self.p = p
        if len(sockets) > SOCKETS:
            raise ValueError(f"at most {SOCKETS} sockets")
        self.out = new_out(0)
        self.scratch = <uint8_t*> calloc(1, SLOT)
        self.links, self.tracks, self.ups, self.downs, self.sessions, self.seats = {}, {}, {}, {}, {}, {}
        self.keep = list(sockets)
        pthread_mutex_init(&p.lock, NULL)
        p.memory = 0 if len(sockets) else 1
        p.wake = -1
        for i in range(SOCKETS):
            p.fds[i] = -1
        p.bell = -1 if p.memory else eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        p.seed = <uint64_t> (seed & 0xFFFFFFFFFFFFFFFF)
        for i, sock in enumerate(sockets):
            p.fds[i] = sock.fileno()
            p.families[i] = sock.family
            p.gso[i] = 1
        for i in range(len(sockets), SOCKETS):
            p.families[i] = 2
        p.notes_limit = sizes.REPORTS
        p.e.seen = <Seen*> calloc(1, sizeof(Seen))
        p.e.note = <uint8_t*> calloc(1, NOTE_BYTES)
        p.e.threshold = 35
        p.e.emit = emit
        p.e.carry = carry
        p.e.report = report
        p.e.tap = tap
        p.e.forget = forget
        p.e.digest = digest
        index_places(p)
        use(p, self.out)
        protect, unprotect, protect_rtcp, unprotect_rtcp, remove_stream = srtp.functions()
        call = protect
        p.protect = <srtp_call> call
        call = unprotect
        p.unprotect = <srtp_call> call
        call = protect_rtcp
        p.protect_rtcp = <srtp_call> call
        call = unprotect_rtcp
        p.unprotect_rtcp = <srtp_call> call
        call = remove_stream
        p.remove_stream = <srtp_remove> call
        call, sha1 = srtp.hmac_sha1()
        p.hmac = <hmac_call> call
        call = sha1
        p.sha1 = <void*> call
        self.supplier = supplier
        if supplier:
            for i, address in enumerate(srtp.ciphers(supplier, MULTI_BUFFER)):
                tp_gcm_take(&p.gcm, i, address)

    def __dealloc__(self):
        cdef Plumbing* p = self.p
        if p == NULL:
            return
        for handle in list(self.downs):
            free_row(<Row*> <uintptr_t> self.downs[handle])
        for handle in list(self.ups):
            free_up(<Up*> <uintptr_t> self.ups[handle])
        for handle in list(self.tracks):
            free((<Group*> <uintptr_t> self.tracks[handle]).row.downs)
            free(<Group*> <uintptr_t> self.tracks[handle])
        for handle in list(self.links):
            self._drop_keys(<Link*> <uintptr_t> self.links[handle])
            free_link(<Link*> <uintptr_t> self.links[handle])
        free_notes(p.head)
        free_notes(p.sent_head)
        if p.bell >= 0:
            close(p.bell)
        pthread_mutex_destroy(&p.lock)
        free(p.e.seen); free(p.e.note); free(p.e.transports); free(p.e.tracks); free(p.e.ups)
        free(p.places); free(p.slots)
        if self.out != NULL:
            free_out(self.out)
        free(self.scratch)
        free(p)

    # ---------------------------------------------------------------------------------------- the lock and the clock

    cdef void _enter(self) noexcept:
        """Take the lock; the GIL is let go while waiting."""
        cdef Plumbing* p = self.p
        with nogil:
            tp_add(&p.wanted, 1)
            lock(p)
            tp_add(&p.wanted, -1)
        use(p, self.out)
        p.e.now = self._time()

    cdef void _leave(self) noexcept:
        """Send what the order produced, give the lock back, and see that a data thread minds a new deadline."""
        cdef Plumbing* p = self.p
        cdef int64_t due = p.e.due
        cdef uint64_t one = 1
        if not p.memory:
            flush(p, self.out)
        cdef int sooner = due and p.wake >= 0 and due + 1000000 <= p.rests_until  # it rests whole milliseconds
        if sooner:
            p.rests_until = due
        settle(p, self.out)
        pthread_mutex_unlock(&p.lock)
        if sooner:
            write(p.wake, &one, 8)

    cdef int64_t _time(self) noexcept:
        return self.test_now if self.p.memory else tp_now()

    cdef uintptr_t _of(self, dict table, handle) except 0:
        found = table.get(handle)
        if found is None:
            raise UnknownHandle(handle)
        return found

    def now(self):
        return self._time()

    # ---------------------------------------------------------------------------------------- threads

    def bell(self):
        return self.p.bell

    def quiet(self):
        """The bell has been heard."""
        cdef uint64_t count
        read(self.p.bell, &count, 8)

    def open_wake(self):
        """An eventfd that wakes a data thread."""
        cdef int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.p.wake = fd
        return fd

    def run(self, int first, int count, int wake):
        """Be the data thread of the sockets first..first+count-1, until `halt`."""
        cdef Plumbing* p = self.p
        with nogil:
            run_port(p, first, count, wake)

    def halt(self):
        """Data threads end when they are woken next."""
        self.p.wake = -1
        self.p.stop = 1

    def silence(self):
        """The sockets are no longer ours: whatever is still ordered goes nowhere."""
        for i in range(SOCKETS):
            self.p.fds[i] = -1

    def gso(self):
        """Which sockets still take segmented messages."""
        return [bool(self.p.gso[i]) for i in range(len(self.keep))]

    def set_gso(self, on):
        for i in range(SOCKETS):
            self.p.gso[i] = on

    def protect_many(self, handles, bytes packet, int times):
        """Protect `packet` so many times for each transport, its sequence number counting on: for the benchmark.
        The number of calls that failed."""
        cdef Plumbing* p = self.p
        cdef int i, k, n, number, failed = 0, count = <int> len(handles), size = <int> len(packet)
        cdef void** sessions = <void**> calloc(count + 1, sizeof(void*))
        for i in range(count):
            sessions[i] = (<Link*> self._of(self.links, handles[i])).outbound[0]
        cdef const char* start = packet
        self._enter()
        for k in range(times):
            for i in range(count):
                memcpy(self.scratch, start, size)
                number = (self.scratch[2] << 8 | self.scratch[3]) + k
                self.scratch[2] = (number >> 8) & 255
                self.scratch[3] = number & 255
                n = size
                if p.protect(sessions[i], self.scratch, &n):
                    failed += 1
        self._leave()
        free(sessions)
        return failed

    def seal_many(self, handles, bytes packet, int times):
        """`protect_many` by our own AES-GCM, the payload read from where it lies."""
        cdef Plumbing* p = self.p
        cdef Link* link
        cdef const uint8_t* start = packet
        cdef int i, k, number, failed = 0, count = <int> len(handles), size = <int> len(packet)
        cdef int64_t top
        cdef void** links = <void**> calloc(count + 1, sizeof(void*))
        for i in range(count):
            link = <Link*> self._of(self.links, handles[i])
            links[i] = link
            if link.sends.rtp == NULL:
                failed += 1
        self._enter()
        for k in range(0 if failed else times):
            for i in range(count):
                link = <Link*> links[i]
                memcpy(self.scratch, start, 12)
                number = (self.scratch[2] << 8 | self.scratch[3]) + k
                self.scratch[2] = (number >> 8) & 255
                self.scratch[3] = number & 255
                top = number
                if not tp_seal(&p.gcm, &link.sends, &top, WINDOW, self.scratch, 12, 12, start + 12, size - 12):
                    failed += 1
        self._leave()
        free(links)
        return failed

    def seal(self, handle, packets, int own=0):
        """Packets of one SSRC as a new row of this transport would send them, `own` bytes of the payload read from
        their place; None for one that is refused. For the self-test and tests."""
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef uint8_t* b = self.scratch
        cdef const uint8_t* start
        cdef int64_t top = 0
        cdef int head, size, before
        if link.sends.rtp == NULL:
            raise ValueError("this transport is libsrtp's")
        sealed = []
        self._enter()
        for packet in packets:
            start = packet
            size = <int> min(len(packet), SLOT - 256)
            head = 12 + 4 * (start[0] & 15)
            if start[0] & 0x10:
                head += 4 + 4 * (start[head + 2] << 8 | start[head + 3])
            before = min(head + own, size)
            memcpy(b, start, before)
            size = tp_seal(&self.p.gcm, &link.sends, &top, WINDOW, b, head, before, start + before, size - before)
            sealed.append(PyBytes_FromStringAndSize(<char*> b, size) if size else None)
        self._leave()
        return sealed

    def seal_rtcp(self, handle, compounds):
        """RTCP compounds as this transport would send them; None for one that is refused. For the self-test and tests."""
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef int size
        if link.sends.rtp == NULL:
            raise ValueError("this transport is libsrtp's")
        sealed = []
        self._enter()
        for compound in compounds:
            size = <int> min(len(compound), SLOT - 256)
            memcpy(self.scratch, PyBytes_AsString(compound), size)
            size = tp_seal_rtcp(&self.p.gcm, &link.sends, self.scratch, size)
            sealed.append(PyBytes_FromStringAndSize(<char*> self.scratch, size) if size else None)
        self._leave()
        return sealed

    def heard(self, handle, packets, int is_rtcp=0):
        """What this transport makes of a peer's packets; None for one that is refused (the drops say why). For the
        self-test and tests."""
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef int size, floor = 8 if is_rtcp else 12
        plain_ones = []
        self._enter()
        for packet in packets:
            size = <int> min(len(packet), SLOT)
            memcpy(self.scratch, PyBytes_AsString(packet), size)
            authentic = size >= floor and plain(self.p, is_rtcp, link, self.scratch, &size)
            plain_ones.append(PyBytes_FromStringAndSize(<char*> self.scratch, size) if authentic else None)
        self._leave()
        return plain_ones

    # ---------------------------------------------------------------------------------------- test mode

    def step(self, int64_t now, batch):
        """A batch of ((socket, host, port), data), in parts of 64 with a fan-out after each; then whatever is due."""
        cdef Plumbing* p = self.p
        cdef tp_addr place
        cdef int n
        self.test_now = now
        self._enter()
        try:
            for start in range(0, len(batch), BATCH):
                for (sock, host, port), data in batch[start : start + BATCH]:
                    self._address(&place, sock, host, port)
                    n = <int> min(PyBytes_Size(data), SLOT)
                    memcpy(self.scratch, PyBytes_AsString(data), n)
                    datagram(p, now, &place, sock, self.scratch, n)
                self._serve()
            if p.e.due and p.e.due <= now:
                tick(&p.e, now)
        finally:
            self._leave()

    def set_time(self, int64_t now):
        """Orders of the test mode happen at this time."""
        self.test_now = now

    def due(self):
        return self.p.e.due

    def sent(self):
        """Datagrams of the test mode since the last call."""
        cdef Note* note = self.p.sent_head
        found = []
        while note != NULL:
            found.append((self._place(&note.place, note.sock), PyBytes_FromStringAndSize(<char*> note.body, note.n)))
            note = note.next
        free_notes(self.p.sent_head)
        self.p.sent_head = NULL
        self.p.sent_tail = NULL
        return found

    # ---------------------------------------------------------------------------------------- transports

    cdef int _address(self, tp_addr* place, sock, host, port) except -1:
        if not 0 <= sock < SOCKETS:
            raise ValueError("no such socket")
        text = host.encode()
        if not tp_parse(place, self.p.families[sock], text, port & 0xFFFF):
            raise ValueError(f"not an address of this socket's family: {host}")
        return 0

    cdef tuple _place(self, tp_addr* place, int sock):
        cdef char text[64]
        text[0] = 0
        tp_host(place, text, 64)
        return sock, (<bytes> text).decode(), tp_port(place)

    def add_transport(self, uint32_t handle, int port, int64_t first_twcc):
        cdef Link* link = new_link()
        link.row.id = handle
        link.row.port = port
        link.row.x_next = first_twcc + 65536
        self.links[handle] = <uintptr_t> link
        self.seats[handle] = []
        self._enter()
        self.p.e.transports = <Transport**> more(self.p.e.transports, self.p.e.n_transports, &self.p.transports_room)
        add_transport(&self.p.e, &link.row)
        self._leave()

    def remove_transport(self, handle):
        cdef Link* link = <Link*> self._of(self.links, handle)
        for up in [up for up, row in self.ups.items() if (<Up*> <uintptr_t> row).transport == &link.row]:
            self.remove_up(up)
        for down in [down for down, row in self.downs.items() if (<Down*> <uintptr_t> row).transport == &link.row]:
            self.remove_down(down)
        self._enter()
        remove_transport(&self.p.e, &link.row)
        forget_place(self.p, NULL, 0, link)
        index_places(self.p)
        self._leave()
        self._drop_keys(link)
        free_link(link)
        del self.links[handle]
        self.seats.pop(handle, None)
        self.sessions.pop(handle, None)

    def set_keys(self, handle, int profile, bytes rx, bytes tx):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef uintptr_t inbound = 0
        cdef void** outbound
        cdef tp_keys sends
        cdef tp_keys hears
        cdef int i
        if not profile and not self.p.memory:
            raise ValueError("no protection is for tests only")
        if profile:  # before anything changes
            srtp.check(profile, rx)
            srtp.check(profile, tx)
        made = None
        memset(&sends, 0, sizeof(tp_keys))
        memset(&hears, 0, sizeof(tp_keys))
        if self.supplier and profile == srtp.GCM:
            self._take_keys(&sends, srtp.session_keys(tx))
            self._take_keys(&hears, srtp.session_keys(rx))
        elif profile:
            made = [profile, tx, srtp.session(profile, rx, outbound=False), srtp.session(profile, tx, outbound=True)]
            inbound = srtp.pointer(made[2])
        before = self.sessions.pop(handle, None)
        if made is not None:
            self.sessions[handle] = made
        self.seats[handle] = [0]
        # only this thread changes the list of rows
        cdef int* seats = <int*> calloc(link.row.n_downs + 1, sizeof(int))
        for i in range(link.row.n_downs):
            seats[i] = self._seat(handle)
        outbound = self._pointers(handle)
        self._enter()
        link.inbound = <void*> inbound
        link.secure = 1 if profile else 0
        link.outbound, outbound = outbound, link.outbound
        link.sends, sends = sends, link.sends
        link.hears, hears = hears, link.hears
        tp_heard_free(&link.heard)
        for i in range(link.row.n_downs):
            link.row.downs[i].session = seats[i]
            link.row.downs[i].top = 0
            link.row.downs[i].rtx_top = 0
        link.row.keyed = 1
        self._leave()
        free(outbound)
        tp_keys_free(&sends, &self.p.gcm)
        tp_keys_free(&hears, &self.p.gcm)
        free(seats)
        del before

    cdef int _take_keys(self, tp_keys* keys, tuple found) except -1:
        cdef const uint8_t* rtp = found[0]
        cdef const uint8_t* rtp_salt = found[1]
        cdef const uint8_t* rtcp = found[2]
        cdef const uint8_t* rtcp_salt = found[3]
        if not tp_keys_take(keys, &self.p.gcm, rtp, rtp_salt, rtcp, rtcp_salt):
            tp_keys_free(keys, &self.p.gcm)
            raise MemoryError
        return 0

    cdef void _drop_keys(self, Link* link) noexcept:
        tp_keys_free(&link.sends, &self.p.gcm)
        tp_keys_free(&link.hears, &self.p.gcm)

    cdef int _seat(self, handle) except -1:
        """The session for one more row; media and repair SSRC count. A new one is made when all are full."""
        cdef int index
        seats = self.seats[handle]
        for index in range(len(seats)):
            if seats[index] + 2 <= SSRCS_PER_SESSION:
                seats[index] += 2
                return index
        kept = self.sessions.get(handle)
        if kept is not None:
            kept.append(srtp.session(kept[0], kept[1], outbound=True))
        seats.append(2)
        return <int> len(seats) - 1

    cdef void** _pointers(self, handle) except? NULL:
        """The outbound sessions of a transport for C; NULL when it has none."""
        cdef uintptr_t address
        cdef int i
        kept = self.sessions.get(handle)
        if kept is None:
            return NULL
        sessions = kept[3:]
        cdef void** found = <void**> calloc(len(sessions), sizeof(void*))
        for i in range(len(sessions)):
            address = srtp.pointer(sessions[i])
            found[i] = <void*> address
        return found

    def allow(self, handle, int sock, host, port):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef tp_addr place
        self._address(&place, sock, host, port)
        self._enter()
        add_place(self.p, &place, sock, link)
        self._leave()

    def disallow(self, handle, int sock, host, port):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef tp_addr place
        self._address(&place, sock, host, port)
        self._enter()
        forget_place(self.p, &place, sock, link)
        index_places(self.p)
        self._leave()

    def select(self, handle, address):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef tp_addr place
        cdef int sock = 0
        memset(&place, 0, sizeof(place))
        if address is not None:
            sock = address[0]
            self._address(&place, sock, address[1], address[2])
        self._enter()
        link.place = place
        link.sock = sock
        link.row.mode = M_FRAMES if address is None else M_UDP
        link.row.c_place_len = tp_stun_address(&place, link.row.c_place)
        self._leave()

    def answer_checks(self, handle, bytes name, bytes password):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef int size = <int> len(name)
        if size > <int> sizeof(link.row.c_name) or len(password) > MAX_PASSWORD:
            raise ValueError("too long for a user fragment or password")
        self._enter()
        memcpy(link.row.c_name, PyBytes_AsString(name), size)
        memcpy(link.password, PyBytes_AsString(password), len(password))
        link.row.c_len = size if self.p.sha1 != NULL else 0
        link.password_len = <int> len(password)
        self._leave()

    def last_check(self, handle):
        # without the lock: one aligned word, which only this thread frees
        return (<Link*> self._of(self.links, handle)).row.c_at

    def has_answered(self, handle, bytes transaction):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef const uint8_t* start = transaction
        cdef int answered
        if len(transaction) != TRANSACTION:
            return False
        self._enter()
        answered = was_answered(&link.row, start)
        self._leave()
        return bool(answered)

    def set_extensions(self, handle, bytes ids):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef int kind
        self._enter()
        for kind in range(256):
            link.row.kinds[kind] = X_NONE
        for kind in range(X_KINDS):
            link.row.ids[kind] = ids[kind]
            if ids[kind]:
                link.row.kinds[<int> ids[kind]] = kind
        self._leave()

    def set_feedback(self, handle, uint32_t ssrc):
        cdef Link* link = <Link*> self._of(self.links, handle)
        self._enter()
        link.row.feedback_ssrc = ssrc
        self._leave()

    def attend(self, handle, int64_t every_ns):
        cdef Link* link = <Link*> self._of(self.links, handle)
        self._enter()
        attend(&self.p.e, &link.row, every_ns)
        self._leave()

    def send(self, sock, host, port, bytes data):
        cdef tp_addr place
        cdef Note* note
        cdef ssize_t took
        cdef int fd
        cdef const char* start = data
        cdef ssize_t n = len(data)
        self._address(&place, sock, host, port)
        if self.p.memory:
            note = new_note(R_SENT, 0, 0, <const uint8_t*> start, <int> n)
            note.sock = sock
            note.place = place
            if self.p.sent_tail != NULL:
                self.p.sent_tail.next = note
            else:
                self.p.sent_head = note
            self.p.sent_tail = note
            return
        fd = self.p.fds[<int> sock]
        with nogil:
            took = tp_send(fd, start, n, &place)
        if took < 0:
            self._enter()
            self.p.e.totals[T_SEND_ERRORS] += 1
            self._leave()

    def send_rtcp(self, handle, bytes data):
        cdef Link* link = <Link*> self._of(self.links, handle)
        self._enter()
        memcpy(self.p.e.buf, PyBytes_AsString(data), PyBytes_Size(data))
        emit(&self.p.e, &link.row, 0, <int> PyBytes_Size(data))
        self._leave()

    def feed(self, int64_t now, handle, bytes data):
        cdef Link* link = <Link*> self._of(self.links, handle)
        cdef Plumbing* p = self.p
        cdef int n = <int> len(data)
        self.test_now = now
        self._enter()
        p.e.now = now
        p.e.totals[T_PACKETS_IN] += 1
        p.e.totals[T_BYTES_IN] += n
        if n == 0 or data[0] < 128 or data[0] >= 192 or n > SLOT:
            p.e.drops[D_MALFORMED] += 1
        else:
            memcpy(self.scratch, PyBytes_AsString(data), n)
            # a fan-out that a data thread interrupted comes first
            self._serve()
            media(p, now, link, self.scratch, n)
            self._serve()
        self._leave()

    cdef void _serve(self) noexcept:
        """The lock is ours and stays so."""
        while fan_out(&self.p.e):
            if not self.p.memory:
                flush(self.p, self.out)
            use(self.p, self.out)

    # ---------------------------------------------------------------------------------------- up

    def add_track(self, uint32_t handle, int codec, int64_t clock_hz):
        cdef Group* group = <Group*> calloc(1, sizeof(Group))
        group.row.id = handle
        group.row.codec = codec
        group.row.clock_hz = clock_hz
        group.row.enabled = 1
        self.tracks[handle] = <uintptr_t> group
        self._enter()
        self.p.e.tracks = <Track**> more(self.p.e.tracks, self.p.e.n_tracks, &self.p.tracks_room)
        add_track(&self.p.e, &group.row)
        self._leave()

    def remove_track(self, handle):
        cdef Group* group = <Group*> self._of(self.tracks, handle)
        for up in [up for up, row in self.ups.items() if (<Up*> <uintptr_t> row).track == &group.row]:
            self.remove_up(up)
        for down in [down for down, row in self.downs.items() if (<Down*> <uintptr_t> row).track == &group.row]:
            self.remove_down(down)
        self._enter()
        remove_track(&self.p.e, &group.row)
        self._leave()
        free(group.row.downs)
        free(group)
        del self.tracks[handle]

    def add_up(self, uint32_t handle, track, transport, uint32_t ssrc, int layer, int payload_type, int nack, int twcc):
        cdef Group* group = <Group*> self._of(self.tracks, track)
        cdef Link* link = <Link*> self._of(self.links, transport)
        cdef Up* u
        packets, size = sizes.ring(group.row.codec)
        if group.row.has[<int> layer]:
            self.remove_up(group.row.ups[<int> layer].id)
        u = new_up(packets, size)
        u.id = handle
        u.ssrc = ssrc
        u.layer = layer
        u.pt = payload_type
        u.nack = nack
        u.twcc = twcc
        u.track = &group.row
        u.transport = &link.row
        self.ups[handle] = <uintptr_t> u
        self._enter()
        self.p.e.ups = <Up**> more(self.p.e.ups, self.p.e.n_ups, &self.p.ups_room)
        more_ssrcs(&link.row, MAX_UNBOUND + link.row.listed + 1)
        add_up(&self.p.e, u, self._time())
        self._replay(u, ssrc)
        self._leave()

    def bind_rtx(self, handle, uint32_t ssrc, int payload_type):
        cdef Up* u = <Up*> self._of(self.ups, handle)
        self._enter()
        u.rtx_ssrc = ssrc
        u.rtx_pt = payload_type
        more_ssrcs(u.transport, MAX_UNBOUND + u.transport.listed + 1)
        name_ssrc(&self.p.e, u.transport, u, ssrc, S_RTX, self._time())
        self._replay(u, ssrc)
        self._leave()

    cdef void _replay(self, Up* u, uint32_t ssrc) noexcept:
        self._serve()
        while replay(&self.p.e, u.transport, ssrc):
            self._serve()
        self._serve()

    def remove_up(self, handle):
        cdef Up* u = <Up*> self._of(self.ups, handle)
        self._enter()
        remove_up(&self.p.e, u)
        self._leave()
        free_up(u)
        del self.ups[handle]

    def want_layer(self, track, int layer):
        cdef Group* group = <Group*> self._of(self.tracks, track)
        self._enter()
        want_layer(&self.p.e, &group.row, layer)
        self._leave()

    def enable(self, track, int enabled):
        cdef Group* group = <Group*> self._of(self.tracks, track)
        self._enter()
        enable(&group.row, enabled)
        self._leave()

    # ---------------------------------------------------------------------------------------- down

    def add_down(self, uint32_t handle, track, transport, uint32_t ssrc, int payload_type, uint32_t rtx_ssrc,
                 int rtx_payload_type, int64_t rtx_first, bytes mid, int raw, uint32_t first_sequence,
                 uint32_t first_timestamp):
        cdef Group* group = <Group*> self._of(self.tracks, track)
        cdef Link* link = <Link*> self._of(self.links, transport)
        cdef Row* row = new_row(sizes.history(group.row.codec))
        cdef Down* d = &row.row
        d.id = handle
        d.ssrc = ssrc
        d.pt = payload_type
        d.rtx_ssrc = rtx_ssrc
        d.rtx_pt = rtx_payload_type
        d.rtx_next = rtx_first
        d.raw = raw
        d.first_seq = first_sequence
        d.first_ts = first_timestamp
        memcpy(d.mid, PyBytes_AsString(mid), PyBytes_Size(mid))
        d.mid_len = <int> PyBytes_Size(mid)
        d.track = &group.row
        d.transport = &link.row
        d.session = self._seat(transport) if self.seats[transport] else 0
        cdef void** outbound = self._pointers(transport)
        self.downs[handle] = <uintptr_t> row
        self._enter()
        link.outbound, outbound = outbound, link.outbound
        link.row.downs = <Down**> more(link.row.downs, link.row.n_downs, &link.downs_room)
        group.row.downs = <Down**> more(group.row.downs, group.row.n_downs, &group.downs_room)
        add_down(d)
        self._leave()
        free(outbound)

    def add_tap(self, uint32_t handle, track, int64_t limit):
        cdef Group* group = <Group*> self._of(self.tracks, track)
        cdef Row* row = new_row(0)
        cdef Down* d = &row.row
        d.id = handle
        d.tap = 1
        d.q_limit = limit
        d.track = &group.row
        self.downs[handle] = <uintptr_t> row
        self._enter()
        group.row.downs = <Down**> more(group.row.downs, group.row.n_downs, &group.downs_room)
        add_down(d)
        self._leave()

    def remove_down(self, handle):
        cdef Row* row = <Row*> self._of(self.downs, handle)
        cdef Down* d = &row.row
        cdef Link* link
        if not d.tap and self.seats[d.transport.id]:
            self.seats[d.transport.id][d.session] -= 2
        self._enter()
        remove_down(d)
        if not d.tap:
            link = <Link*> d.transport
            if link.sends.rtp != NULL:
                tp_untell(&link.sends, d.ssrc)
            elif link.secure:
                self.p.remove_stream(link.outbound[d.session], tp_swap(d.ssrc))
                if d.rtx_ssrc:
                    self.p.remove_stream(link.outbound[d.session], tp_swap(d.rtx_ssrc))
        self._leave()
        free_row(row)
        del self.downs[handle]

    def aim(self, handle, int layer, int temporal):
        cdef Row* row = <Row*> self._of(self.downs, handle)
        self._enter()
        aim(&self.p.e, &row.row, layer, temporal)
        self._leave()

    def take_tap(self, handle):
        cdef Row* row = <Row*> self._of(self.downs, handle)
        cdef Kept* kept
        cdef Kept* first
        cdef int64_t lost_packets
        self._enter()
        first = row.head
        row.head = NULL
        row.tail = NULL
        lost_packets = row.row.q_lost
        row.row.q_lost = 0
        row.row.q_n = 0
        self._leave()
        packets = []
        kept = first
        while kept != NULL:
            body = PyBytes_FromStringAndSize(<char*> kept.body, kept.n)
            packets.append((kept.at, kept.seq, kept.ts, kept.marker, kept.key, kept.layer, body))
            kept = kept.next
        free_kept(first)
        return packets, lost_packets

    def tap_clock(self, handle):
        cdef Row* row = <Row*> self._of(self.downs, handle)
        cdef Down* d = &row.row
        cdef Up* u
        cdef uint64_t ntp = 0
        cdef uint32_t timestamp = 0
        cdef int64_t arrival = 0
        cdef int known = 0
        self._enter()
        if d.layer >= 0 and d.track.has[d.layer] and d.track.ups[d.layer].sr_known:
            u = d.track.ups[d.layer]
            known = 1
            ntp = u.sr_ntp
            timestamp = u.sr_ts - d.ts_off
            arrival = u.sr_at
        self._leave()
        return (ntp, timestamp, arrival) if known else None

    # ---------------------------------------------------------------------------------------- reports and figures

    def take_reports(self):
        cdef Note* note
        cdef Note* first
        self._enter()
        first = self.p.head
        self.p.head = NULL
        self.p.tail = NULL
        self.p.notes = 0
        self._leave()
        taken = []
        note = first
        while note != NULL:
            place = self._place(&note.place, note.sock) if note.kind == R_DATAGRAM else None
            taken.append((note.kind, note.a, note.b, PyBytes_FromStringAndSize(<char*> note.body, note.n), place))
            note = note.next
        free_notes(first)
        return taken

    def up_figures(self, handle):
        cdef Up* row = <Up*> self._of(self.ups, handle)
        cdef Up u
        cdef int64_t gone, rtt
        self._enter()
        u = row[0]
        row.a_heard = 127
        gone = lost(row)
        rtt = row.rtt_ns if row.rtt_ns else row.transport.rtt_ns
        self._leave()
        jitter = (u.jitter16 >> 4) * 1000000000 // u.track.clock_hz
        return (u.packets, u.bytes, gone, u.repaired, u.nacks, u.plis, u.key_frames, u.frames, jitter, u.fraction,
                u.last_at, rtt, u.a_heard)

    def down_figures(self, handle):
        cdef Row* row = <Row*> self._of(self.downs, handle)
        cdef Down d
        self._enter()
        d = row.row
        self._leave()
        jitter = d.jitter * 1000000000 // d.track.clock_hz
        return (d.packets, d.bytes, d.retransmitted, d.nacks, d.plis, d.lost, d.fraction, jitter, d.rtt_ns, d.layer,
                d.frames)

    def take_levels(self):
        cdef Up* u
        cdef int i, n = 0
        cdef int64_t* found = <int64_t*> calloc(4 * (self.p.e.n_ups + 1), sizeof(int64_t))
        self._enter()
        for i in range(self.p.e.n_ups):
            u = self.p.e.ups[i]
            if u.a_packets:
                found[n] = u.id
                found[n + 1] = u.a_packets
                found[n + 2] = u.a_active
                found[n + 3] = u.a_loudest
                n += 4
                u.a_packets = 0
                u.a_active = 0
                u.a_loudest = 127
        self._leave()
        heard = [(found[i], found[i + 1], found[i + 2], found[i + 3]) for i in range(0, n, 4)]
        free(found)
        return heard

    def set_threshold(self, int level):
        self.p.e.threshold = level

    def totals(self):
        cdef int i
        cdef int64_t totals[TOTALS]
        cdef int64_t drops[DROPS]
        self._enter()
        memcpy(totals, self.p.e.totals, sizeof(totals))
        memcpy(drops, self.p.e.drops, sizeof(drops))
        self._leave()
        return [totals[i] for i in range(TOTALS)], [drops[i] for i in range(DROPS)]
