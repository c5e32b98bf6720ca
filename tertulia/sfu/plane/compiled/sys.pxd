# What the plumbing needs of Linux: batched datagrams, UDP GSO and GRO (udp(7)), a mutex, eventfd, a clock.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <errno.h>
    #include <netinet/in.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/eventfd.h>
    #include <sys/socket.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    #ifndef SOL_UDP
    #define SOL_UDP 17
    #endif
    #define TP_CONTROL 32

    /* an IPv4 or IPv6 address with its port, zero where unused: 28 bytes, also the key of the address table */
    typedef union { struct sockaddr sa; struct sockaddr_in v4; struct sockaddr_in6 v6; uint64_t words[4]; } tp_addr;

    static inline void tp_segment(struct msghdr *m, char *control, uint16_t size) {
        struct cmsghdr *c;
        m->msg_control = control;
        m->msg_controllen = CMSG_SPACE(sizeof(uint16_t));
        c = CMSG_FIRSTHDR(m);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        memcpy(CMSG_DATA(c), &size, sizeof size);
    }
    /* From now on datagrams of one sender may come as one message; a kernel before 5.0 refuses, and they never do */
    static inline void tp_coalesce(int fd) {
        int on = 1;
        setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    }
    /* The length of each datagram of a received message but the last; 0: it is a single one */
    static inline int tp_coalesced(struct msghdr *m) {
        struct cmsghdr *c;
        int size;
        for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
            if (c->cmsg_level != SOL_UDP || c->cmsg_type != UDP_GRO) continue;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 ? size : 0;
        }
        return 0;
    }
    static inline int64_t tp_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
    }
    /* Turns of 0.1 ms for this thread, so that it runs as soon as it is woken (sched_setattr(2); Linux 6.12 and later) */
    static inline void tp_short_turns(void) {
        struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; }
            wish = {48, 0, 0, 0, 0, 100000, 0, 0};
        if (getpriority(PRIO_PROCESS, 0) == 0) syscall(SYS_sched_setattr, 0, &wish, 0);
    }
    static inline socklen_t tp_length(const tp_addr *a) {
        return a->sa.sa_family == AF_INET6 ? sizeof a->v6 : sizeof a->v4;
    }
    /* 1 when host is a literal address of the family */
    static inline int tp_parse(tp_addr *a, int family, const char *host, uint16_t port) {
        memset(a, 0, sizeof *a);
        a->sa.sa_family = family;
        if (family == AF_INET6) {
            a->v6.sin6_port = htons(port);
            return inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1;
        }
        a->v4.sin_port = htons(port);
        return inet_pton(AF_INET, host, &a->v4.sin_addr) == 1;
    }
    static inline uint16_t tp_port(const tp_addr *a) {
        return ntohs(a->sa.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
    }
    static inline void tp_host(const tp_addr *a, char *out, int size) {
        if (a->sa.sa_family == AF_INET6) inet_ntop(AF_INET6, &a->v6.sin6_addr, out, size);
        else inet_ntop(AF_INET, &a->v4.sin_addr, out, size);
    }
    /* flow label and scope are no part of who a peer is */
    static inline void tp_normal(tp_addr *a) {
        if (a->sa.sa_family == AF_INET6) { a->v6.sin6_flowinfo = 0; a->v6.sin6_scope_id = 0; a->words[3] &= 0xffffffffu; }
        else { memset(a->v4.sin_zero, 0, sizeof a->v4.sin_zero); a->words[2] = a->words[3] = 0; }
    }
    /* the value of (XOR-)MAPPED-ADDRESS (RFC 8489 14.1), not masked; its length, 0 for no address */
    static inline int tp_stun_address(const tp_addr *a, uint8_t *to) {
        int six = a->sa.sa_family == AF_INET6;
        uint16_t port = six ? a->v6.sin6_port : a->v4.sin_port;
        if (!a->sa.sa_family) return 0;
        to[0] = 0;
        to[1] = six ? 2 : 1;
        memcpy(to + 2, &port, 2);
        if (six) memcpy(to + 4, &a->v6.sin6_addr, 16);
        else memcpy(to + 4, &a->v4.sin_addr, 4);
        return six ? 20 : 8;
    }
    static inline uint64_t tp_hash(const tp_addr *a, uint64_t sock, uint64_t seed) {
        uint64_t h = seed ^ (sock * 0x9e3779b97f4a7c15ull);
        int i;
        for (i = 0; i < 4; i++) { h = (h ^ a->words[i]) * 0xff51afd7ed558ccdull; h ^= h >> 32; }
        return h;
    }
    static inline int tp_same(const tp_addr *a, const tp_addr *b) { return memcmp(a, b, sizeof *a) == 0; }
    static inline int tp_load(volatile int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void tp_add(volatile int *p, int v) { __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline ssize_t tp_send(int fd, const void *data, size_t n, const tp_addr *to) {
        return sendto(fd, data, n, MSG_DONTWAIT, &to->sa, tp_length(to));
    }
    static inline uint32_t tp_swap(uint32_t v) { return htonl(v); }
    """
    ctypedef struct tp_addr:
        pass
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct timespec:
        pass
    struct pollfd:
        int fd
        short events
        short revents
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* m, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int poll(pollfd* fds, unsigned long count, int milliseconds)
    int eventfd(unsigned int initial, int flags)
    ssize_t read(int fd, void* to, size_t n)
    ssize_t write(int fd, const void* of, size_t n)
    int close(int fd)
    int sched_yield()
    int POLLIN, MSG_DONTWAIT, EFD_NONBLOCK, EFD_CLOEXEC, EAGAIN, EINVAL, EIO, ENOBUFS, EOPNOTSUPP, ENOPROTOOPT
    int errno
    int TP_CONTROL
    void tp_segment(msghdr* m, char* control, uint16_t size)
    void tp_coalesce(int fd)
    int tp_coalesced(msghdr* m)
    int64_t tp_now()
    void tp_short_turns()
    unsigned int tp_length(const tp_addr* a)
    int tp_parse(tp_addr* a, int family, const char* host, uint16_t port)
    uint16_t tp_port(const tp_addr* a)
    void tp_host(const tp_addr* a, char* out, int size)
    void tp_normal(tp_addr* a)
    int tp_stun_address(const tp_addr* a, uint8_t* to)
    uint64_t tp_hash(const tp_addr* a, uint64_t sock, uint64_t seed)
    int tp_same(const tp_addr* a, const tp_addr* b)
    int tp_load(volatile int* p)
    void tp_add(volatile int* p, int v)
    ssize_t tp_send(int fd, const void* data, size_t n, const tp_addr* to)
    uint32_t tp_swap(uint32_t v)
