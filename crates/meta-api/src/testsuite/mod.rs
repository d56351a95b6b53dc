//! What every way to the metadata service must do, for the tests of implementations.
