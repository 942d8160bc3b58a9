mod goldens;
mod script;
