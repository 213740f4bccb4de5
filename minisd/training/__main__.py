"""`python -m minisd.training vae|clip|unet|inpaint|classifier|judge`, alone or under torchrun."""

from minisd.training.command import main

main()
