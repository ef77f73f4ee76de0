-- What a script may name: the interpreter that Redis and Valkey embed. Helpers come by include, so a single file can't be
-- judged for what it does not define (113): tests/lua/test_lint.py looks at each script with its includes expanded.
std = "lua51"
read_globals = { "redis", "KEYS", "ARGV", "cjson" }
-- A script binds all of its keys, also those that only a helper uses.
ignore = { "113", "211/[A-Z_]+" }
max_line_length = 140
-- A helper is used by those who include it.
files["lua/lib"] = { ignore = { "113", "211" } }
