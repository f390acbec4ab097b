-- Which making of the projection this is: whoever has read another one's checkpoints may not commit to this one.
ALTER TABLE log ADD COLUMN epoch uuid NOT NULL DEFAULT gen_random_uuid();
