//! The dashboard: server-rendered pages and live updates
