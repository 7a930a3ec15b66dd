//! The steps of confinement (DESIGN section 5).
