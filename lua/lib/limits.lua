-- Every bound inside the store, in one place. docs/data-model.md lists them; a test holds the two together.
local SCHEMA = '1' -- version of the layout of the keys
local MAX_CLASSES = 4096 -- capability classes of a namespace
local MAX_POOLS = 2000 -- pools that a document declares
local MAX_HOLDS = 100000 -- nodes that have a hold
local MAX_OWNERS = 16 -- holds of one node
local MAX_INSTANCES = 256 -- scheduler instances
local MAX_BATCH = 500 -- nodes of one touch_nodes call
local MAX_PAGE = 5000 -- rows of one reply
local MAX_VIOLATIONS = 100 -- violations that one check reports
local EVENTS_KEPT = 100000 -- entries of the event stream, approximately
local HISTORY_KEPT = 1000 -- entries of the history, exactly
local CHUNK = 1000 -- arguments of one variadic command: unpack() fails near 8,000
local CLONE_WINDOW_MS = 60000 -- takeovers of one id that follow each other within this time ...
local CLONE_TAKEOVERS = 3 -- ... and are this many mean that two nodes share the id
