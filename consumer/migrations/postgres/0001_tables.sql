-- INT4 by its name: where INTEGER means 64 bits (CockroachDB), it would not be what the program reads and writes.
CREATE TABLE IF NOT EXISTS sluice_lock (
  name TEXT COLLATE "C" NOT NULL PRIMARY KEY
);
COMMENT ON TABLE sluice_lock IS 'rows exist to be locked and never change';

CREATE TABLE IF NOT EXISTS sluice_progress (
  table_name TEXT COLLATE "C" NOT NULL,
  stream INT4 NOT NULL,
  cluster_id TEXT COLLATE "C" NOT NULL,
  consumer_group TEXT COLLATE "C" NOT NULL,
  topic TEXT COLLATE "C" NOT NULL,
  "partition" INT4 NOT NULL,
  generation INT4 NOT NULL,
  owner_epoch BIGINT NOT NULL,
  owner TEXT NOT NULL,
  next_offset BIGINT NOT NULL,
  last_id BIGINT NOT NULL,
  fingerprint BIGINT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  claimed_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (table_name, stream),
  UNIQUE (cluster_id, consumer_group, table_name, topic, "partition", generation)
);
COMMENT ON COLUMN sluice_progress.stream IS '14 bits of every row id';
COMMENT ON COLUMN sluice_progress.generation IS 'counts how often the topic was re-created';
COMMENT ON COLUMN sluice_progress.owner_epoch IS 'counts the claims';
COMMENT ON COLUMN sluice_progress.next_offset IS 'first offset that is not settled';
COMMENT ON COLUMN sluice_progress.last_id IS 'largest id given out';
COMMENT ON COLUMN sluice_progress.fingerprint IS 'XXH3-64 of the message at next_offset - 1, its bits as a signed number';

CREATE TABLE IF NOT EXISTS sluice_rate (
  pipeline TEXT COLLATE "C" NOT NULL,
  holder TEXT COLLATE "C" NOT NULL,
  share INT4 NOT NULL,
  demand INT4 NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  PRIMARY KEY (pipeline, holder)
);
COMMENT ON COLUMN sluice_rate.share IS 'millionths of the rate';
COMMENT ON COLUMN sluice_rate.demand IS 'millionths of the rate';
COMMENT ON COLUMN sluice_rate.expires_at_ms IS 'milliseconds since 1970, in this server''s time';

CREATE TABLE IF NOT EXISTS sluice_dead_letter (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  stream INT4 NOT NULL,
  topic TEXT NOT NULL,
  "partition" INT4 NOT NULL,
  "offset" BIGINT NOT NULL,
  span_index INT4,
  message_time_ms BIGINT,
  reason TEXT NOT NULL,
  detail TEXT NOT NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (table_name, id)
);
COMMENT ON COLUMN sluice_dead_letter.span_index IS 'NULL: the whole message';
COMMENT ON COLUMN sluice_dead_letter.message_time_ms IS 'milliseconds since 1970';

CREATE TABLE IF NOT EXISTS sluice_dead_letter_chunk (
  table_name TEXT COLLATE "C" NOT NULL,
  id BIGINT NOT NULL,
  part TEXT COLLATE "C" NOT NULL,
  seq INT4 NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (table_name, id, part, seq)
);
COMMENT ON TABLE sluice_dead_letter_chunk IS 'value, key and headers of a dead letter, trace_id and kind of a single span; a part''s chunks joined in order are the original bytes';
