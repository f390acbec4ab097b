-- The epoch of this projection: a projector that read the checkpoints of another epoch must not commit.
ALTER TABLE log ADD COLUMN epoch uuid NOT NULL DEFAULT gen_random_uuid();
