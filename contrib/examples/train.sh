#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Training on half of a GPU, in the site's default class.
#SBATCH --job-name=train
#SBATCH --gres=detshare:0.5
#SBATCH --cpus-per-task=8
srun python train.py
