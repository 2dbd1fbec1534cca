//! Random histories judged by a naive reference: views, crashes, damage.

mod chance;
mod compare;
mod crashes;
mod damage;
mod generator;
mod links;
mod mortal;
mod overlay;
mod overlay_model;
mod player;
mod points;
mod reference;
mod seeds;
mod tree_image;
mod views;
