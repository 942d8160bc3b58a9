mod advantages;
mod figures;
mod golden;
mod gradients;
mod losses;
mod properties;
mod refusals;
