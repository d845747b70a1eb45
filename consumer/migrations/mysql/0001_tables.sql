-- Names are VARBINARY: they are compared byte by byte, without a collation and without padding.
CREATE TABLE IF NOT EXISTS sluice_lock (
  name VARBINARY(1000) NOT NULL COMMENT 'rows exist to be locked',
  turns BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'counts the holders',
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS sluice_progress (
  table_name VARBINARY(64) NOT NULL,
  stream SMALLINT UNSIGNED NOT NULL COMMENT '14 bits of every row id',
  cluster_id VARBINARY(255) NOT NULL,
  consumer_group VARBINARY(255) NOT NULL,
  topic VARBINARY(255) NOT NULL,
  `partition` INT NOT NULL,
  generation INT UNSIGNED NOT NULL COMMENT 'counts how often the topic was re-created',
  owner_epoch BIGINT UNSIGNED NOT NULL COMMENT 'counts the claims',
  owner VARBINARY(255) NOT NULL,
  next_offset BIGINT UNSIGNED NOT NULL COMMENT 'first offset that is not settled',
  last_id BIGINT UNSIGNED NOT NULL COMMENT 'largest id given out',
  fingerprint BIGINT UNSIGNED NULL COMMENT 'XXH3-64 of the message at next_offset - 1',
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  claimed_at TIMESTAMP NULL,
  updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, stream),
  UNIQUE KEY sluice_progress_key (cluster_id, consumer_group, table_name, topic, `partition`, generation)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS sluice_rate (
  pipeline VARBINARY(900) NOT NULL,
  holder VARBINARY(255) NOT NULL,
  share INT UNSIGNED NOT NULL COMMENT 'millionths of the rate',
  demand INT UNSIGNED NOT NULL COMMENT 'millionths of the rate',
  expires_at_ms BIGINT NOT NULL COMMENT 'milliseconds since 1970, in this server''s time',
  PRIMARY KEY (pipeline, holder)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE IF NOT EXISTS sluice_dead_letter (
  table_name VARBINARY(64) NOT NULL,
  id BIGINT UNSIGNED NOT NULL COMMENT 'from the same sequence as row ids',
  stream SMALLINT UNSIGNED NOT NULL,
  topic VARBINARY(255) NOT NULL,
  `partition` INT NOT NULL,
  `offset` BIGINT UNSIGNED NOT NULL,
  span_index INT UNSIGNED NULL COMMENT 'NULL: the whole message',
  message_time_ms BIGINT NULL COMMENT 'milliseconds since 1970',
  reason VARCHAR(32) NOT NULL,
  detail TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  PRIMARY KEY (table_name, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- What a dead letter consists of; a part's chunks joined in order are the original bytes.
CREATE TABLE IF NOT EXISTS sluice_dead_letter_chunk (
  table_name VARBINARY(64) NOT NULL,
  id BIGINT UNSIGNED NOT NULL,
  part VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'value, key or headers; trace_id or kind of a single span',
  seq INT NOT NULL,
  data MEDIUMBLOB NOT NULL,
  PRIMARY KEY (table_name, id, part, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
