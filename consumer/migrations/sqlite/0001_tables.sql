CREATE TABLE IF NOT EXISTS sluice_progress (
  table_name TEXT NOT NULL,
  stream INTEGER NOT NULL, -- 14 bits of every row id
  cluster_id TEXT NOT NULL,
  consumer_group TEXT NOT NULL,
  topic TEXT NOT NULL,
  "partition" INTEGER NOT NULL,
  generation INTEGER NOT NULL, -- counts how often the topic was re-created
  owner_epoch INTEGER NOT NULL, -- counts the claims
  owner TEXT NOT NULL,
  next_offset INTEGER NOT NULL, -- first offset that is not settled
  last_id INTEGER NOT NULL, -- largest id given out
  fingerprint INTEGER, -- XXH3-64 of the message at next_offset - 1, its bits as a signed number
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  claimed_at TEXT,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, stream),
  UNIQUE (cluster_id, consumer_group, table_name, topic, "partition", generation)
) STRICT;

CREATE TABLE IF NOT EXISTS sluice_rate (
  pipeline TEXT NOT NULL,
  holder TEXT NOT NULL,
  share INTEGER NOT NULL, -- millionths of the rate
  demand INTEGER NOT NULL, -- millionths of the rate
  expires_at_ms INTEGER NOT NULL, -- milliseconds since 1970
  PRIMARY KEY (pipeline, holder)
) STRICT;

CREATE TABLE IF NOT EXISTS sluice_dead_letter (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL, -- from the same sequence as row ids
  stream INTEGER NOT NULL,
  topic TEXT NOT NULL,
  "partition" INTEGER NOT NULL,
  "offset" INTEGER NOT NULL,
  span_index INTEGER, -- NULL: the whole message
  message_time_ms INTEGER, -- milliseconds since 1970
  reason TEXT NOT NULL,
  detail TEXT NOT NULL,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) STRICT;

-- What a dead letter consists of; a part's chunks joined in order are the original bytes.
CREATE TABLE IF NOT EXISTS sluice_dead_letter_chunk (
  table_name TEXT NOT NULL,
  id INTEGER NOT NULL,
  part TEXT NOT NULL, -- value, key or headers; trace_id or kind of a single span
  seq INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (table_name, id, part, seq)
) STRICT;
