"""The loss of each KD mode, a file each, and what several of them share (`cells`, `maps`): functions of tensors.

A loss function is called ``function(student, teacher, matches, **options)`` and returns named scalars; those whose name
begins with ``metric/`` are only logged. Losses on feature maps also take ``pairs=`` and, where they train a module
between the two networks' channels, ``adapter=``. `distill.modes` declares which function belongs to which mode.
"""
