//! Both planes over a real registry and a real chunk store.

mod agent;
mod boot;
mod chunks;
mod events;
mod field;
mod field_script;
mod images;
mod lab;
mod openapi;
mod operator;
mod serving;
