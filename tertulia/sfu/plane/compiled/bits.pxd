# bits.py for the compiled life: inline, no module behind it.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from * nogil:
    """
    static inline uint32_t tp_crc32(const uint8_t *p, int n) {
        static const uint32_t of_half[16] = {
            0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
            0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
        uint32_t c = 0xffffffffu;
        int i;
        for (i = 0; i < n; i++) {
            c = of_half[(c ^ p[i]) & 15] ^ c >> 4;
            c = of_half[(c ^ p[i] >> 4) & 15] ^ c >> 4;
        }
        return ~c;
    }
    """
    uint32_t crc32 "tp_crc32" (const uint8_t* p, int n)


cdef inline uint32_t rd16(const uint8_t* p, int o) noexcept nogil:
    return (<uint32_t> p[o] << 8) | p[o + 1]


cdef inline uint32_t rd24(const uint8_t* p, int o) noexcept nogil:
    return (<uint32_t> p[o] << 16) | (<uint32_t> p[o + 1] << 8) | p[o + 2]


cdef inline uint32_t rd32(const uint8_t* p, int o) noexcept nogil:
    return (<uint32_t> p[o] << 24) | (<uint32_t> p[o + 1] << 16) | (<uint32_t> p[o + 2] << 8) | p[o + 3]


cdef inline uint64_t rd64(const uint8_t* p, int o) noexcept nogil:
    return (<uint64_t> rd32(p, o) << 32) | rd32(p, o + 4)


cdef inline void wr16(uint8_t* p, int o, uint32_t v) noexcept nogil:
    p[o] = (v >> 8) & 255
    p[o + 1] = v & 255


cdef inline void wr24(uint8_t* p, int o, uint32_t v) noexcept nogil:
    p[o] = (v >> 16) & 255
    p[o + 1] = (v >> 8) & 255
    p[o + 2] = v & 255


cdef inline void wr32(uint8_t* p, int o, uint32_t v) noexcept nogil:
    p[o] = (v >> 24) & 255
    p[o + 1] = (v >> 16) & 255
    p[o + 2] = (v >> 8) & 255
    p[o + 3] = v & 255


cdef inline void wr64(uint8_t* p, int o, uint64_t v) noexcept nogil:
    wr32(p, o, <uint32_t> (v >> 32))
    wr32(p, o + 4, <uint32_t> v)


cdef inline void copy(uint8_t* d, int do, const uint8_t* s, int so, int n) noexcept nogil:
    memcpy(d + do, s + so, n)


cdef inline int int_of(int64_t v) noexcept nogil:
    return <int> v


cdef inline uint32_t u16(int64_t v) noexcept nogil:
    return <uint16_t> v


cdef inline uint32_t u32(int64_t v) noexcept nogil:
    return <uint32_t> v


cdef inline int64_t s16(int64_t v) noexcept nogil:
    return <int16_t> v


cdef inline int64_t s32(int64_t v) noexcept nogil:
    return <int32_t> v


cdef inline uint32_t ticked(int64_t now) noexcept nogil:
    return <uint32_t> (now >> 10)


cdef inline int64_t unticked(uint32_t tick, int64_t now) noexcept nogil:
    return ((now >> 10) - <uint32_t> ((now >> 10) - tick)) << 10


cdef inline int64_t s64(uint64_t v) noexcept nogil:
    return <int64_t> v
