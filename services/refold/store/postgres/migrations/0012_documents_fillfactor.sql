-- Under load one commit changes most rows of a page: with room for all of its rows once more, each stays on its page, and
-- no index row is added. With 70, two rows of 2 KB had room for one: a fifth of the updates went to other pages, and the
-- table grew to 13 times its size within 150 commits. Rows that are seldom changed take more room on new pages.
ALTER TABLE documents SET (fillfactor = 50);
