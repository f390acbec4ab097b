-- Dictionaries by which values are compressed: their number stands in each of these values, the newest of a namespace is
-- used. None is deleted; a rebuild has the newest ones. `content` is encoded as every value is.
CREATE TABLE dictionaries (
    number INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    content BLOB NOT NULL
);
