//! Turning into another program with less authority (DESIGN section 6).
