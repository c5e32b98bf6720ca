from libc.stdint cimport uint8_t

from tertulia.sfu.plane.compiled.bits cimport rd16
from tertulia.sfu.plane.compiled.rows cimport Seen, Transport
from tertulia.sfu.plane.compiled.words cimport *

cdef int measure(Seen* s, Transport* t, const uint8_t* p, int n) noexcept nogil
cdef void short_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
cdef void long_form(Seen* s, Transport* t, const uint8_t* p, int o, int end) noexcept nogil
