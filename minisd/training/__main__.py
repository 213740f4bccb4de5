"""`python -m minisd.training vae|clip|unet|inpaint|classifier`, alone or under torchrun."""

from minisd.training.command import main

main()
