"""Wire messages generated from node/proto; never edited by hand."""
