-- The newest rejections of a namespace, and of all, without reading the older ones.
CREATE INDEX rejections_by_sequence ON rejections (sequence);
