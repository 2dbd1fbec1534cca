//! Random histories judged by a naive reference: views, crashes, damage.

mod chance;
mod compare;
mod damage;
mod generator;
mod links;
mod overlay;
mod overlay_model;
mod player;
mod points;
mod reference;
mod tree_image;
mod views;
