"""Every bound that the Python side keeps, one constant each. Anything beyond one is refused, never truncated.

Bounds that only the scripts keep (classes, pools in the store) stand in the Lua files that enforce them.
"""

from __future__ import annotations

# --- identifiers -----------------------------------------------------------------------------------------------------

MAX_NODE_ID_CHARS = 128
MAX_INSTANCE_ID_CHARS = 64
MAX_POOL_NAME_CHARS = 128
MAX_SERVICE_TYPE_CHARS = 64

MAX_LABELS = 32
MAX_LABEL_KEY_CHARS = 64
MAX_LABEL_VALUE_CHARS = 128

MAX_SHOWN_CHARS = 60
"""Characters of a refused value that an error message repeats; the rest is cut, so that a 10 kB id can't fill a log."""

MAX_TENANT_CHARS = 64

MAX_JOB_ID_CHARS = 128

# --- the store -------------------------------------------------------------------------------------------------------

MAX_STORE_HOSTS = 32
"""Hosts that a URL of the store names."""

# --- facts and reports -----------------------------------------------------------------------------------------------

MAX_LANGUAGES = 256
"""Codes in one language list. The longest seen in the field (an ASR service of the January clients) has about 100."""

MAX_SERVICES = 256
"""Ready service types of one node."""

MAX_GPUS = 64

MAX_U32 = 2**32 - 1
"""Largest count of cores, GB and the like: what the fleet's former server could hold. Exact as a Lua number."""

MAX_RECORD_BYTES = 64 * 1024
MAX_USAGE_BYTES = 4 * 1024

# --- admission -------------------------------------------------------------------------------------------------------

MAX_ADMISSION_GPU_MEMORY_GB = 4096
MAX_GPU_NAME_PATTERNS = 32
MAX_GPU_NAME_PATTERN_CHARS = 128
MAX_SCHEMA_VERSIONS = 16
MAX_SCHEMA_VERSION_CHARS = 32

# --- node protocol ---------------------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES = 1024 * 1024
"""One frame of a node."""

MAX_REPEATED_CHARS = 16 * 1024
"""Text of a heartbeat that is kept to know the next one by; a longer one is read as a whole each time."""

MAX_DEPTH = 64
"""Objects and lists inside each other in one frame. The deepest message of the fleet has 6."""

MAX_KEYS = 4096
"""Members of one object."""

MAX_INTEGER_DIGITS = 20
"""Digits of an integer, sign included: more than any field means, and what every JSON reader can hold."""

MAX_TEXT_CHARS = 1024
MAX_INSTALLED_MODELS = 1024
MAX_INSTALLED_SERVICES = 1024

MAX_PERCENT = 1e9
"""Percentages may be out of 0..100 (that is a health matter), but not without bound."""

MAX_SHOWN_PROBLEMS = 5
"""Problems that one ``error`` names; it says how many more there are."""

MAX_ERROR_CHARS = 2048
"""Text of one ``error`` message."""

MAX_REASON_CHARS = 200
"""Text of a reason: of an update, a status change or a close frame (which holds at most 123 bytes)."""

MAX_CLOSE_REASON_BYTES = 123

# --- allocator -------------------------------------------------------------------------------------------------------

MAX_TOUCH_BATCH = 128
"""Heartbeats of one ``touch_nodes``: it keeps the store for well under a millisecond."""

MAX_WAITING_HEARTBEATS = 20_000
"""Heartbeats of one process that wait for the store; more are refused."""

MAX_UPSERT_BATCH = 64
"""Registrations and updates of one ``upsert_node_to_pool``: as many as the script takes."""

MAX_CALLS_AT_ONCE = 8
"""Calls for one registration each that leave together, since the script takes a node of a new class by itself."""

MAX_WAITING_UPSERTS = 20_000
"""Registrations and updates of one process that wait for the store; more are refused."""

MAX_WAITING_JOBS = 20_000
"""Reservations of one process that wait for the store, and updates of them; more are refused."""

MAX_PAGE = 5000
"""Nodes of one page."""

MAX_SHOWN_PAIRS = 10_000
"""Ready language pairs that are listed of a pool."""

MAX_EVENTS_PAGE = 10_000
"""Events of one reading."""

MAX_EVENT_REASON_BYTES = 128
"""What an event keeps of a node's reason; the rest is cut."""

# --- jobs ------------------------------------------------------------------------------------------------------------

MAX_NODE_SLOTS = 500
"""Slots of one node."""

MAX_JOB_SLOTS = 64
"""Slots of one job."""

MAX_ATTEMPT = 1_000_000

MAX_REQUEST_NAMES = 64
"""Services, excluded nodes and excluded pools of one request, each."""

MAX_JOB_BATCH = 32
"""Jobs of one call of a script, which keeps the store for a millisecond or two; more go as several."""

MAX_JOBS_OF_A_CALL = 1024
"""Jobs that one call of the allocator takes."""

MAX_JOB_PAGE = 1000
"""Jobs of one page, and job ids of one question."""

MAX_TENANT_SLOTS = 1_000_000
"""Highest quota of a tenant."""

# --- configuration documents -----------------------------------------------------------------------------------------

MAX_DOCUMENT_BYTES = 1024 * 1024
"""Of the source text as well as of the canonical JSON that goes to the store."""

MAX_DOCUMENT_DEPTH = 16
"""Mappings and lists inside each other; a valid document needs 6."""

MAX_DOCUMENT_ENTRIES = 2000
"""Entries of one list or mapping: as many as there may be pools."""

MAX_DOCUMENT_VALUES = 200_000
"""Mappings, lists, keys and scalars of one text. 2,000 pools of 1 MiB leave each some 500 characters, so 100 values."""

MAX_PROBLEMS = 200
"""Problems that one refusal lists; the last line counts the rest."""

MAX_COUNTED_PROBLEMS = 2000
"""Problems after which no further pool is looked at."""

MAX_POOLS = MAX_DOCUMENT_ENTRIES
"""Pools that a document declares. The scripts refuse more than that themselves."""

MAX_TENANTS = MAX_DOCUMENT_ENTRIES
"""Tenants that a document names."""

MIN_PRIORITY, MAX_PRIORITY = -1000, 1000

MAX_MATCH_GPU_MEMORY_GB = MAX_ADMISSION_GPU_MEMORY_GB

MAX_AUTO_POOLS = 4096
"""Highest ``auto.max_pools``. More are of no use: each serves a capability class, and the store keeps 4,096 of them."""

MAX_AUTO_MIN_NODES = 100_000

MIN_IDLE_TTL_MS, MAX_IDLE_TTL_MS = 100, 30 * 24 * 3600 * 1000
