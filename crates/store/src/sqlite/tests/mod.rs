//! Tests of what is only seen from inside.
