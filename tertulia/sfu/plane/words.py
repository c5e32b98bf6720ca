"""Numbers shared by the decisions and the plumbing. `compiled/words.pxd` names the same ones (a test compares them)."""

# what a packet may be dropped for: `api.Drop`
D_UNKNOWN_ADDRESS = 0
D_NO_KEYS = 1
D_AUTHENTICATION = 2
D_REPLAY = 3
D_MALFORMED = 4
D_SSRC_LIMIT = 5
D_UNBOUND_SSRC = 6
D_LAYER = 7
D_TEMPORAL = 8
D_WAITING = 9
D_PAUSED = 10
D_OLD = 11
D_DUPLICATE = 12
D_PADDING_ONLY = 13
D_SEND_BUFFER = 14
D_TAP_QUEUE = 15
D_REPORT_QUEUE = 16
D_RATE = 17
D_OVERSIZE = 18
DROPS = 24

# node-wide counters, in the order of `plane.TOTALS`
T_PACKETS_IN = 0
T_BYTES_IN = 1
T_PACKETS_OUT = 2
T_BYTES_OUT = 3
T_NACKS_IN = 4
T_NACKS_OUT = 5
T_PLIS_IN = 6
T_PLIS_OUT = 7
T_RETRANSMITTED = 8
T_GSO_SEGMENTS = 9
T_SEND_ERRORS = 10
T_CHECKS = 11
TOTALS = 16

# kinds of report
R_DATAGRAM = 1
R_OUTGOING = 2
R_UNBOUND = 3
R_SWITCHED = 4
R_KEY_FRAME = 5
R_FEEDBACK = 6
R_RTCP = 7
R_SILENT = 8

# codecs: `api.Codec`
C_OTHER = 0
C_OPUS = 1
C_VP8 = 2
C_VP9 = 3
C_H264 = 4
C_AV1 = 5
C_RED = 6
C_H265 = 7

# header extensions: `api.Extension`
X_MID = 0
X_RID = 1
X_RRID = 2
X_TWCC = 3
X_ABS_SEND_TIME = 4
X_AUDIO_LEVEL = 5
X_DEPENDENCY = 6
X_PLAYOUT_DELAY = 7
X_ORIENTATION = 8
X_LAYERS = 9
X_CAPTURE_TIME = 10
X_COLOR_SPACE = 11
X_CONTENT_TYPE = 12
X_TIMING = 13
X_KINDS = 14
X_NONE = 15

# what is known of a stored packet
F_MARKER = 1
F_KEY = 2
F_START = 4
F_SYNC = 8
F_PADDING = 16
F_PICTURE_WIDE = 32

# what an SSRC of a transport is
S_UNBOUND = 0
S_UP = 1
S_RTX = 2

# how a transport sends
M_NONE = 0
M_UDP = 1
M_FRAMES = 2

# what the delay of a path tells
U_NORMAL = 0
U_OVER = 1
U_UNDER = 2

MAX_PACKET = 1500
MAX_UNBOUND = 32
MAX_RTCP_SSRCS = 64
SSRCS_PER_SESSION = 32
LIMBO_PACKETS = 256
LIMBO_BYTES = 262144
LIMBO_EACH = 128
PENDING = 64
READY = 64
RANGES = 16
NACKS = 250
NACK_TRIES = 5
SENT = 2048
ARRIVALS = 1024
PAST_GROUPS = 64
BASES = 40
NOTE_BYTES = 4096
RESENDS = 3
TRANSACTION = 12
CHECKS_KEPT = 64
MAX_PASSWORD = 256
PREFIX = 16
"""A payload's first bytes that a copy may have otherwise than the stored packet: one block of the cipher."""
FLOOD_DROPS = 1000
