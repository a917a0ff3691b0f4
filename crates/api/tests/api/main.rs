//! Both planes over a real registry and a real chunk store.

mod agent;
mod boot;
mod capture;
mod captures;
mod chunks;
mod eeprom;
mod events;
mod exports;
mod field;
mod field_script;
mod gc;
mod images;
mod lab;
mod look;
mod look_tables;
mod openapi;
mod operator;
mod orders;
mod policy;
mod power;
mod queue;
mod scrub;
mod serving;
