# Scipion parses the docstring of this module as BibTeX.
"""
@article{Zhao2018,
  title = {An integration of fast alignment and maximum-likelihood methods for electron subtomogram averaging and classification},
  author = {Zhao, Yixiu and Zeng, Xiangrui and Guo, Qiang and Xu, Min},
  journal = {Bioinformatics},
  volume = {34},
  number = {13},
  pages = {i227--i236},
  year = {2018},
  doi = {10.1093/bioinformatics/bty267}
}

@article{Frazier2017,
  title = {Tomominer and TomominerCloud: a software platform for large-scale subtomogram structural analysis},
  author = {Frazier, Zachary and Xu, Min and Alber, Frank},
  journal = {Structure},
  volume = {25},
  number = {6},
  pages = {951--961},
  year = {2017},
  doi = {10.1016/j.str.2017.04.016}
}

@article{Scheres2009,
  title = {Averaging of electron subtomograms and random conical tilt reconstructions through likelihood optimization},
  author = {Scheres, Sjors H. W. and Melero, Roberto and Valle, Mikel and Carazo, Jose-Maria},
  journal = {Structure},
  volume = {17},
  number = {12},
  pages = {1563--1572},
  year = {2009},
  doi = {10.1016/j.str.2009.10.009}
}

@article{Voss2009,
  title = {{DoG} Picker and {TiltPicker}: software tools to facilitate particle selection in single particle electron microscopy},
  author = {Voss, N. R. and Yoshioka, C. K. and Radermacher, M. and Potter, C. S. and Carragher, B.},
  journal = {Journal of Structural Biology},
  volume = {166},
  number = {2},
  pages = {205--213},
  year = {2009},
  doi = {10.1016/j.jsb.2009.01.004}
}
"""  # noqa: E501
