-- Where history is encrypted: what an author wrote in an event, or of a rejection, as one encoded value. The columns that it
-- stands for are empty then; of `conflict`, an empty value says that there is one.
ALTER TABLE journal ADD COLUMN content bytea;
ALTER TABLE rejections ADD COLUMN content bytea;

-- Encrypted values do not compress.
ALTER TABLE journal ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE rejections ALTER COLUMN content SET STORAGE EXTERNAL;
