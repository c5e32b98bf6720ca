# Memory of rows, out of huge pages: thousands of rows on pages of their own cost a walk of the page tables, several of
# them, at every packet. To be used under the GIL.
cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #define TP_CHUNK ((size_t) 2 << 20)
    #define TP_SIZES 1024
    /* whole huge pages, where the kernel gives them (`transparent_hugepage` is not `never`) */
    static inline void *tp_huge(size_t size) {
        size_t whole = (size + TP_CHUNK - 1) / TP_CHUNK * TP_CHUNK;
        void *found = aligned_alloc(TP_CHUNK, whole);
        if (found) madvise(found, whole, MADV_HUGEPAGE);
        return found;
    }
    /* zeroed cache lines; what is given back is kept for the next of its size */
    static char *tp_chunk;
    static size_t tp_left;
    static void *tp_spare[TP_SIZES];
    static inline void *tp_take(size_t size) {
        size_t lines = (size + 63) / 64;
        char *found;
    #ifndef __SANITIZE_ADDRESS__
        if (lines < TP_SIZES) {
            if (tp_spare[lines]) {
                found = tp_spare[lines];
                tp_spare[lines] = *(void **) found;
                return memset(found, 0, lines * 64);
            }
            if (tp_left < lines * 64) {
                if (!(found = tp_huge(TP_CHUNK))) return 0;
                tp_chunk = found;
                tp_left = TP_CHUNK;
            }
            found = tp_chunk;
            tp_chunk += lines * 64;
            tp_left -= lines * 64;
            return memset(found, 0, lines * 64);
        }
    #endif
        found = aligned_alloc(64, lines * 64);
        return found ? memset(found, 0, lines * 64) : 0;
    }
    static inline void tp_give(void *memory, size_t size) {
        size_t lines = (size + 63) / 64;
        if (!memory) return;
    #ifndef __SANITIZE_ADDRESS__
        if (lines < TP_SIZES) {
            *(void **) memory = tp_spare[lines];
            tp_spare[lines] = memory;
            return;
        }
    #endif
        free(memory);
    }
    """
    void* tp_huge(size_t size)
    void* tp_take(size_t size)
    void tp_give(void* memory, size_t size)
